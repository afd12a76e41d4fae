"""What Redis and redis-py report where somebody or time must help: one sentence and remedy for each.

docs/how-to/connection-errors.md has the same rows; a test compares them.
"""

from __future__ import annotations

from viewer_pipeline.command_to_type import command_to_type
from viewer_pipeline.errors import RedisFailed, RedisRefusesConnections, RedisUnavailable
from viewer_pipeline.stores.known_errors import KnownError

REDIS_ERRORS = (
    KnownError(
        "invalid username-password pair|invalid password|WRONGPASS",
        RedisRefusesConnections,
        "user and password do not match, or the user is disabled",
        "correct user and password in REDIS_URL, or ACL SETUSER; a character such as @ or / must be %-encoded",
    ),
    KnownError(
        "Authentication required|NOAUTH",
        RedisRefusesConnections,
        "a password is required, and none is given",
        "write it into REDIS_URL: redis://user:password@host, or redis://:password@host",
    ),
    KnownError(
        "without any password configured|no password is set",
        RedisRefusesConnections,
        "a password is given, and this Redis has none",
        "remove it from REDIS_URL, or set one in Redis (requirepass)",
    ),
    KnownError(
        "no permissions to|NOPERM",
        RedisFailed,
        "this user lacks a right",
        f"enter the ACL line that `{command_to_type('grants')}` prints",
    ),
    KnownError(
        "DB index is out of range|invalid DB index|SELECT is not allowed in cluster mode",
        RedisRefusesConnections,
        "this Redis has no database with the number in the URL",
        "correct the number at the end of REDIS_URL, or raise `databases` in Redis",
    ),
    KnownError(
        r"^MOVED\b|don't hash to the same slot",
        RedisRefusesConnections,
        "this Redis is in cluster mode",
        "write redis+cluster:// in place of redis:// into REDIS_URL, without a number of a database",
    ),
    KnownError(
        "cluster support disabled|unknown command 'CLUSTER'",
        RedisRefusesConnections,
        "this Redis is not in cluster mode",
        "write redis:// in place of redis+cluster:// into REDIS_URL",
    ),
    KnownError(
        "[Hh]ostname mismatch|certificate is not valid for|doesn't match",
        RedisRefusesConnections,
        "the certificate of the server is for another host name",
        "use a host name of the certificate in REDIS_URL",
    ),
    KnownError(
        "CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        RedisRefusesConnections,
        "the authority that signed the certificate of the server is not trusted",
        "name its certificate in REDIS_URL (ssl_ca_certs=…), or renew a certificate that has expired",
    ),
    KnownError(
        "WRONG_VERSION_NUMBER|wrong version number|RECORD_LAYER_FAILURE|record layer failure",
        RedisRefusesConnections,
        "the server does not use TLS on this port",
        "write redis:// in place of rediss:// into REDIS_URL, or name the TLS port",
    ),
    KnownError(
        "CERTIFICATE_REQUIRED|certificate required",
        RedisRefusesConnections,
        "the server requires a certificate of the client",
        "name certificate and key in REDIS_URL: ssl_certfile=…&ssl_keyfile=…",
    ),
    KnownError(
        r"connecting to [^/\s]+:\d+\. No such file or directory|\bPEM\b",
        RedisRefusesConnections,
        "a certificate or key file of the URL cannot be used",
        "correct ssl_ca_certs, ssl_certfile, ssl_keyfile and ssl_password in REDIS_URL",
    ),
    KnownError(
        "Connection refused|No such file or directory",
        RedisUnavailable,
        "nothing listens there",
        "start Redis, or correct host and port in REDIS_URL",
    ),
    KnownError(
        "Name or service not known|name resolution|nodename nor servname|No address associated",
        RedisUnavailable,
        "the host name of the URL cannot be resolved",
        "correct the host in REDIS_URL; if it is right, check the name server of this machine",
    ),
    KnownError(
        "No master found",
        RedisUnavailable,
        "the Sentinels name no primary",
        "none during a failover; else correct hosts and service in REDIS_URL, and check the Sentinels",
    ),
    KnownError(
        "Hash slot not served|The cluster is down|no node of the cluster serves",
        RedisUnavailable,
        "some slots of the cluster have no primary",
        "none during a failover; else start the nodes that are down, see `redis-cli --cluster check`",
    ),
    KnownError(
        "Multiple keys request during rehashing|the slot has moved",
        RedisUnavailable,
        "slots of the cluster are moving to other nodes",
        "none: the next attempt continues",
    ),
    KnownError(
        "Timeout connecting|No route to host|Network is unreachable|timed out",
        RedisUnavailable,
        "no answer from the host of the URL",
        "check host, port, network and firewall; with rediss://, check that the server uses TLS on this port",
    ),
    KnownError(
        "Timeout reading|Timeout writing",
        RedisUnavailable,
        "the server is connected and does not answer",
        "check whether it hangs, swaps or runs a slow command (SLOWLOG GET), and the network",
    ),
    KnownError(
        "max number of clients reached",
        RedisUnavailable,
        "Redis takes no more connections",
        "none if it passes; else raise maxclients, or close connections of others (CLIENT LIST)",
    ),
    KnownError(
        r"\bLOADING\b|is loading the dataset",
        RedisUnavailable,
        "Redis is loading its data",
        "none: flushes continue once it has",
    ),
    KnownError(
        "Connection closed|closed by server|Connection reset|Broken pipe",
        RedisUnavailable,
        "the connection broke",
        "none if it passes; else check that the server runs; a port that requires TLS needs rediss:// in REDIS_URL",
    ),
)
