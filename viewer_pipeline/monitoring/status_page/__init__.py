"""The status page of the worker: what people see at `GET /`."""
