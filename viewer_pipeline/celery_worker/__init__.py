"""The Celery workers that execute runs: `celery -A viewer_pipeline.celery_worker worker`."""
