"""`python -m viewer_pipeline.code_server ARGUMENTS` takes the arguments of `dagster api grpc`."""

import sys

from viewer_pipeline.code_server.server import serve

if __name__ == "__main__":
    serve(sys.argv[1:])
