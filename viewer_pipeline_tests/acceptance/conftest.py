"""What acceptance tests tell people while they run."""

from viewer_pipeline_tests.faults.conftest import tell

__all__ = ["tell"]
