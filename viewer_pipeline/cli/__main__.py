"""`python -m viewer_pipeline.cli`."""

from viewer_pipeline.cli.main import main

if __name__ == "__main__":
    main()
