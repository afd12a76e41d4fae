"""Post JSON to ALERT_WEBHOOK_URL: three attempts of bounded time, no redirects."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

ATTEMPTS = 3
ATTEMPT_SECONDS = 3.0  # a tick of the sensor has 60 s for all runs that failed since the last
BACKOFF_SECONDS = 0.25
RETRIED_STATUSES = (429, *range(500, 600))


def post_json_or_error(url: str, payload: Mapping[str, str]) -> str:
    """Post a payload as JSON; return why it was not delivered, empty where the server accepted it (2xx).

    Tried again if the server does not respond, or responds 5xx or 429. The result names the host alone: the path of a
    webhook is often a secret.
    """
    retry = Retry(
        ATTEMPTS - 1,
        allowed_methods=["POST"],
        status_forcelist=RETRIED_STATUSES,
        raise_on_status=False,
        backoff_factor=BACKOFF_SECONDS,
        respect_retry_after_header=False,
    )
    with requests.Session() as session:
        for scheme in ("http://", "https://"):  # the whole URL does not match where requests normalizes it
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        headers = {"User-Agent": "viewer-pipeline"}
        try:
            response = session.post(
                url,
                json=dict(payload),
                headers=headers,
                timeout=ATTEMPT_SECONDS,
                allow_redirects=False,
                stream=True,  # the body is not read: it may have no end
            )
        except (requests.RequestException, ValueError) as error:
            return f"{urlsplit(url).hostname}: {_innermost_class_name(error)}"
    return "" if 200 <= response.status_code < 300 else f"{urlsplit(url).hostname}: status {response.status_code}"


def _innermost_class_name(error: BaseException) -> str:
    """Return the class of the error that requests and urllib3 wrapped."""
    while (cause := getattr(error, "reason", None) or error.__cause__ or error.__context__) and cause is not error:
        error = cause
    return type(error).__name__
