"""Post JSON to ALERT_WEBHOOK_URL: a few attempts, each with an end."""

import json
import time
from collections.abc import Mapping
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

ATTEMPTS = 3
ANSWER_SECONDS = 3.0  # of one attempt: a sensor's tick has 60 s for all that failed since the last
PAUSE_SECONDS = 0.5


class _StayHere(HTTPRedirectHandler):
    """Follow no redirect: what is posted is for the address that was configured."""

    def redirect_request(self, *_: object) -> None:
        """Refuse."""


_OPENER = build_opener(_StayHere)


def post(url: str, message: Mapping[str, object]) -> str:
    """Post a message as JSON; return what went wrong in a few words, empty where it was taken (2xx).

    Tried again where the server does not answer or says 5xx or 429. Nothing that is returned has the URL in it but its
    host: the path is often a key.
    """
    data = json.dumps(message).encode()
    request = Request(url, data, {"Content-Type": "application/json", "User-Agent": "viewer-pipeline"})  # noqa: S310 - settings take http and https alone
    said = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            with _OPENER.open(request, timeout=ANSWER_SECONDS):
                return ""
        except HTTPError as error:
            error.close()
            said = f"status {error.code}"
            if error.code < 500 and error.code != 429:
                break
        except (OSError, HTTPException, ValueError) as error:
            said = type(getattr(error, "reason", error)).__name__
    return f"{urlsplit(url).hostname}: {said}"
