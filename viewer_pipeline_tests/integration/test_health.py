"""`/health` and `/ping` over HTTP: each status with its code, servers that hang, and nothing secret."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import redis

from viewer_pipeline.errors import SettingsError
from viewer_pipeline.migrations.migrate import migrate
from viewer_pipeline.monitoring.dagster_rules import DAGSTER_CHECKS
from viewer_pipeline.monitoring.dagster_tables import SENSOR, SWEEP
from viewer_pipeline.stack.managed_process import signal_processes
from viewer_pipeline.stack.ports import LOOPBACK
from viewer_pipeline.stack.postgres_server import PostgresServer
from viewer_pipeline_tests.support.dagster_world import DagsterWorld, error_of
from viewer_pipeline_tests.support.http_world import SECRET, HttpWorld
from viewer_pipeline_tests.support.proxy import Proxy
from viewer_pipeline_tests.support.servers import Postgres
from viewer_pipeline_tests.support.waiting import processes_with, wait_until
from viewer_pipeline_tests.support.world import World

FLUSH = """
    INSERT INTO viewer.flush (seq, flush_id, run_id, mode, taken_at, committed_at, counters, views, batches, format)
    VALUES (%s, gen_random_uuid(), 'test', 'sweep', now(), now() - make_interval(secs => %s), 1, 1, 1, 2)
"""


def flushed(http: HttpWorld, seq: int, ago: float = 0) -> None:
    """Commit a flush."""
    with psycopg.connect(http.settings.require_database_url()) as connection:
        connection.execute(FLUSH, [seq, ago])


def settled(client: redis.Redis, seq: int) -> None:
    """Put the marker at the end of a flush."""
    client.hset("viewer:settled", mapping={"flush": seq, "batch": 1, "batches": 1})


@pytest.fixture
def well(dagster: DagsterWorld, http: HttpWorld) -> HttpWorld:
    """A worker in a world in which all is well."""
    dagster.beat_all()
    dagster.register()
    dagster.tick(SENSOR, 1, skip="no VOD was announced")
    dagster.tick(SWEEP, 1, skip="nothing to flush")
    http.start()
    return http


def test_all_checks_healthy(well: HttpWorld, client: redis.Redis) -> None:
    """200, healthy, every check with its message; nothing is written to Redis."""
    response = well.request("/health")
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    body = response.json()
    assert (body["status"], body["service"]) == ("healthy", "viewer-worker")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    ours = {"redis", "redis_memory", "postgres", "subscriber", "freshness"}
    ours |= {"marker", "unsettled", "last_flush", "incidents", "rejected", "held", "history_timezone", "lost_settings"}
    ours |= {"streams"}
    assert set(body["checks"]) == ours | set(DAGSTER_CHECKS)
    assert {check["status"] for check in body["checks"].values()} == {"healthy"}
    assert all(check["message"] for check in body["checks"].values())
    assert {tuple(check) for check in body["checks"].values()} == {("status", "message", "remedy", "details")}
    assert body["checks"]["redis"]["details"]["round_trip_ms"] >= 0
    assert body["checks"]["postgres"]["details"]["round_trip_ms"] >= 0
    assert body["checks"]["sensor"]["details"]["skip_reason"] == "no VOD was announced"
    assert client.keys() == []  # the test write changes nothing


def test_ping(http: HttpWorld) -> None:
    """200 with the three fields, while no server answers."""
    http.start(redis_url=f"redis://:{SECRET}@{LOOPBACK}:1/0", database_url=f"postgresql://me:pw@{LOOPBACK}:1/x")
    response = http.request("/ping")
    assert response.status == 200
    assert sorted(response.json()) == ["service", "status", "timestamp"]
    assert (response.json()["status"], response.json()["service"]) == ("healthy", "viewer-worker")


def test_stopping(http: HttpWorld) -> None:
    """/health answers 503; /ping answers 200 as before."""
    http.start()
    http.stopping = True
    code, status, checks = http.health()
    assert (code, status, list(checks)) == (503, "unhealthy", ["subscriber"])
    assert checks["subscriber"]["message"] == "the worker is stopping, and folds the views in its memory"
    assert http.request("/ping").status == 200


@pytest.mark.parametrize("path", ["/ping/", "/health/", "/metrics/"])
def test_a_slash_at_the_end_is_no_other_path(http: HttpWorld, path: str) -> None:
    """Monitors and people add one."""
    http.start()
    assert http.request(path).status == 200
    assert http.request(path).headers["content-type"] == http.request(path.rstrip("/")).headers["content-type"]


@pytest.mark.parametrize("path", ["/health/x", "/healthz", "/status.html", "/metrics/x", "/docs", "/%2e%2e/health"])
def test_unknown_paths(http: HttpWorld, path: str) -> None:
    """404, with the paths that exist."""
    http.start()
    response = http.request(path)
    assert (response.status, response.body) == (404, "Not Found. There are /, /health, /metrics, /ping\n")


@pytest.mark.parametrize("path", ["/", "/status.js", "/health", "/ping", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods(http: HttpWorld, path: str, method: str) -> None:
    """405; HEAD belongs to GET."""
    http.start()
    assert http.request(path, method).status == 405
    assert http.request("/ping", "HEAD").status == 200


def test_health_is_indented_for_browsers(http: HttpWorld) -> None:
    """The same JSON on many lines for those who accept HTML; programs get one line."""
    http.start()
    http.stopping = True  # the same checks both times
    line, lines = http.request("/health"), http.request("/health", accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert (line.status, lines.status) == (503, 503)
    assert lines.headers["content-type"] == line.headers["content-type"] == "application/json"
    assert line.body.endswith("}\n")
    assert line.body.count("\n") == 1
    assert lines.body.endswith("}\n")
    assert lines.body.splitlines()[1] == '  "status": "unhealthy",'
    assert lines.json()["checks"] == line.json()["checks"]


def test_headers_have_no_versions(http: HttpWorld) -> None:
    """Headers name no server."""
    http.start()
    assert set(http.request("/health").headers) <= {"content-type", "content-length", "connection"}


def test_port_in_use(http: HttpWorld) -> None:
    """An error before anything is started, with the setting and its value."""
    http.start()
    listener = rf"HEALTH_CHECK_PORT={http.port}: .+ listens on this port of 127\.0\.0\.1"
    with pytest.raises(SettingsError, match=listener) as error:
        HttpWorld(http.settings.copy_unvalidated()).start(health_check_port=http.port)
    assert error.value.remedy == "stop it, or choose another port with HEALTH_CHECK_PORT"
    with pytest.raises(SettingsError, match=r"HEALTH_CHECK_HOST='no\.such\.host\.invalid'"):
        HttpWorld(http.settings).start(health_check_host="no.such.host.invalid")


def test_stop_releases_threads_and_port(http: HttpWorld) -> None:
    """No thread is left, and the port is free."""
    before = set(threading.enumerate())
    http.start()
    http.request("/health")
    http.request("/metrics")
    port = http.port
    http.stop()
    left = {thread for thread in threading.enumerate() if thread.name.startswith(("health", "probe"))} - before
    wait_until(lambda: not any(thread.is_alive() for thread in left), 30, "all threads ended")
    again = HttpWorld(http.settings)
    again.start(health_check_port=port)
    again.stop()


# --- Redis ----------------------------------------------------------------------------------------------------------


def test_redis_out_of_reach(http: HttpWorld) -> None:
    """Unhealthy, with host and reason, without the password; checks that need it are unknown."""
    http.start(redis_url=f"redis://:{SECRET}@{LOOPBACK}:1/0")
    wait_until(lambda: http.check("postgres")[1] == "healthy", 30, "PostgreSQL answers within the limit of the check")
    code, status, checks = http.health()
    assert (code, status) == (503, "unhealthy")
    assert checks["redis"]["message"].startswith(f"Redis does not answer: redis://:***@{LOOPBACK}:1/0: ")
    assert {name for name, check in checks.items() if check["status"] == "unhealthy"} == {"redis", "redis_memory"}
    dependent = {
        "freshness",
        "marker",
        "unsettled",
        "last_flush",
        "incidents",
        "rejected",
        "held",
        "lost_settings",
        "streams",
    }
    assert {name for name, check in checks.items() if check["status"] == "unknown"} == dependent
    assert checks["freshness"]["message"] == "not checked, because redis is unhealthy"


def test_redis_with_a_wrong_password(http: HttpWorld, redis_url: str) -> None:
    """Unhealthy with Redis' reason."""
    http.start(redis_url=redis_url.replace("//", f"//nobody:{SECRET}@"))
    code, status, message = http.check("redis")
    assert (code, status) == (503, "unhealthy")
    assert "password" in message


def test_redis_out_of_memory(http: HttpWorld, client: redis.Redis) -> None:
    """It answers, and refuses writes: unhealthy with its reason; heals."""
    http.start()
    assert http.check("redis")[1] == "healthy"
    client.config_set("maxmemory", 1)
    wait_until(lambda: http.check("redis")[1] == "unhealthy", 30, "the check noticed")
    code, _, message = http.check("redis")
    assert code == 503
    assert "command not allowed when used memory > 'maxmemory'" in message
    assert http.check("redis_memory")[1] == "degraded"
    client.config_set("maxmemory", 0)
    wait_until(lambda: http.check("redis")[1] == "healthy", 30, "it healed")


@pytest.fixture
def replica(client: redis.Redis) -> Iterator[None]:
    """Make Redis a replica of nothing."""
    client.replicaof(LOOPBACK, 1)
    yield
    client.replicaof("NO", "ONE")


@pytest.mark.usefixtures("replica")
def test_redis_is_a_replica(http: HttpWorld) -> None:
    """Unhealthy: nothing can be settled on it."""
    http.start()
    code, status, message = http.check("redis")
    assert (code, status) == (503, "unhealthy")
    assert message == f"Redis refuses writes: it is a replica of {LOOPBACK}:1"


@pytest.fixture
def evicting(client: redis.Redis) -> Iterator[None]:
    """Make Redis evict any key."""
    client.config_set("maxmemory-policy", "allkeys-lru")
    yield
    client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.usefixtures("evicting")
def test_redis_that_evicts(http: HttpWorld) -> None:
    """Degraded, with the consequence."""
    http.start()
    code, status, message = http.check("redis_memory")
    assert (code, status) == (200, "degraded")
    assert message.startswith("maxmemory-policy allkeys-lru evicts counters")


def test_redis_that_hangs(http: HttpWorld, redis_url: str, redis_proxy: Proxy) -> None:
    """The response comes while it hangs, and reports when it has healed."""
    http.start(redis_url=redis_proxy.url(redis_url))
    assert http.check("redis")[1] == "healthy"
    http.hangs = True
    redis_proxy.blackhole()
    wait_until(lambda: http.check("redis")[1] == "unhealthy", 5, "the check noticed")
    code, _, checks = http.health()
    assert code == 503
    assert re.search("no answer for|Timeout", checks["redis"]["message"])
    assert checks["postgres"]["status"] == "healthy"
    assert http.request("/ping").status == 200
    redis_proxy.heal()
    wait_until(lambda: http.check("redis")[1] == "healthy", 30, "it healed")


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def test_postgres_out_of_reach(http: HttpWorld) -> None:
    """Unhealthy without the password; checks of Dagster's tables, on the same server, are unknown."""
    http.start(database_url=f"postgresql://me:s3cret@{LOOPBACK}:1/views?sslpassword=s3cret2")
    code, status, checks = http.health()
    assert (code, status) == (503, "unhealthy")
    assert checks["postgres"]["message"].startswith("PostgreSQL is unavailable: ")
    assert checks["postgres"]["status"] == "unhealthy"
    assert {checks[name]["status"] for name in ("unsettled", "sensor")} == {"unknown"}
    assert "s3cret" not in str(checks)
    assert checks["redis"]["status"] == "healthy"


def test_schema_missing(http: HttpWorld, postgres_server: Postgres) -> None:
    """Names the command that makes it."""
    http.start(database_url=postgres_server.url_of_database("postgres"))
    code, status, message = http.check("postgres")
    assert (code, status) == (503, "unhealthy")
    assert message == "the schema `viewer` is missing"


def test_postgres_read_only(http: HttpWorld) -> None:
    """Nothing can be committed."""
    url = http.settings.require_database_url()
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    http.start()
    assert http.check("postgres") == (503, "unhealthy", "PostgreSQL refuses writes: its transactions are read-only")


@pytest.fixture
def own_postgres(servers_home: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that a test may stop and kill."""
    server = PostgresServer(servers_home, throw_away=True)
    server.start()
    try:
        migrate(server.url, with_dagster=True)
        yield server
    finally:
        signal_all(server, signal.SIGCONT)
        server.stop()


def signal_all(server: PostgresServer, number: signal.Signals) -> None:
    """Send a signal to every process of the server, but not to its guard."""
    processes = processes_with(server.directory).items()
    signal_processes((pid for pid, command in processes if "reaper.py" not in command), number)


def test_postgres_that_hangs(http: HttpWorld, own_postgres: PostgresServer) -> None:
    """Stopped by SIGSTOP: /health responds within a second, queues nothing, and recovers."""
    http.start(database_url=own_postgres.url)
    assert http.check("postgres")[1] == "healthy"
    threads = threading.active_count()
    http.hangs = True
    signal_all(own_postgres, signal.SIGSTOP)
    wait_until(lambda: http.check("postgres")[1] == "unhealthy", 30, "the check noticed")
    code, status, message = http.check("postgres")
    assert (code, status) == (503, "unhealthy")
    assert re.match(r"no answer for \d+\.\d s|PostgreSQL is unavailable", message)
    for _ in range(3):
        assert http.request("/metrics").status == 200
        assert http.check("redis")[1] == "healthy"
        body = http.request("/").body
        assert "PostgreSQL cannot be read" in body
        assert body.count("Remedy: ") == 1  # the page has one place for this cause
    assert (
        threading.active_count() <= threads + 9
    )  # of the event loop's pool, and one for each path that is shared; not for each request
    signal_all(own_postgres, signal.SIGCONT)
    wait_until(lambda: http.check("postgres")[1] == "healthy", 60, "it healed")


def test_postgres_killed_while_it_hangs(http: HttpWorld, own_postgres: PostgresServer) -> None:
    """The checks that wait are freed, and find the server that is started in its place."""
    http.start(database_url=own_postgres.url)
    assert http.check("postgres")[1] == "healthy"
    http.hangs = True
    signal_all(own_postgres, signal.SIGSTOP)
    wait_until(lambda: http.check("postgres")[1] == "unhealthy", 30, "the check noticed")
    signal_all(own_postgres, signal.SIGKILL)
    wait_until(lambda: own_postgres.process.exit_status() is not None, 30, "the server is gone")
    assert http.check("postgres")[1] == "unhealthy"
    own_postgres.start()
    migrate(own_postgres.url, with_dagster=True)  # what it had committed last is not on disk: it is a throw-away
    wait_until(lambda: "restarted" in http.check("postgres")[2], 60, "it recovered, and reports that")
    assert http.check("postgres")[1] == "degraded"


# --- views ----------------------------------------------------------------------------------------------------------


def test_subscriber(http: HttpWorld) -> None:
    """Standing by is healthy; while it reconnects, messages are missed."""
    http.start()
    assert http.check("subscriber")[1] == "healthy"
    http.stats.enter_state("standby")
    wait_until(lambda: "standing by" in http.check("subscriber")[2], 30, "standby is reported")
    http.stats.enter_state("reconnecting", "closed")
    wait_until(lambda: http.check("subscriber")[:2] == (503, "unhealthy"), 30, "the loss is reported")
    assert http.check("subscriber")[2] == "reconnecting: closed; messages that are published now are missed"


def test_freshness(http: HttpWorld, client: redis.Redis) -> None:
    """Unhealthy when the oldest pending view is older than FRESHNESS_LIMIT_MS."""
    client.zadd("viewer:changed", {"a": 1, "b": 2})  # announced in 1970
    http.start()
    code, status, message = http.check("freshness")
    assert (code, status) == (503, "unhealthy")
    assert re.fullmatch(r"2 VODs pending, the oldest for \d+ days: no flush has taken them within 5 min", message)
    client.delete("viewer:changed")
    wait_until(lambda: http.check("freshness") == (200, "healthy", "nothing announced is pending"), 30, "it healed")


@pytest.mark.parametrize(
    ("kind", "expected", "pattern"),
    [
        (
            "drift",
            (200, "degraded"),
            r"counters were lowered by another program, or fell back \d+ s ago \(run 12345678, 7 views\)",
        ),
        (
            "postgres_rolled_back",
            (503, "unhealthy"),
            r"PostgreSQL was rolled back, e\.g\. restored from a backup \d+ s ago",
        ),
    ],
)
def test_incidents(http: HttpWorld, world: World, kind: str, expected: tuple[int, str], pattern: str) -> None:
    """An incident stays open until it is acknowledged."""
    world.execute("INSERT INTO viewer.incident (kind, message, run_id, views) VALUES (%s, 'm', '12345678-90', 7)", kind)
    http.start()
    code, status, message = http.check("incidents")
    assert (code, status) == expected
    assert re.match(pattern, message)
    world.execute("UPDATE viewer.incident SET acknowledged_at = now()")
    wait_until(lambda: http.check("incidents")[1] == "healthy", 30, "it is closed")


def test_unsettled(http: HttpWorld, client: redis.Redis) -> None:
    """The next run has a minute to settle."""
    settled(client, 1)
    flushed(http, 1, ago=600)
    flushed(http, 2, ago=90)
    flushed(http, 3, ago=5)
    http.start()
    code, status, message = http.check("unsettled")
    assert (code, status) == (200, "degraded")
    assert re.match(r"2 flushes committed and not settled, the oldest for 9\d s: readers who add", message)
    settled(client, 2)
    wait_until(lambda: http.check("unsettled")[1] == "healthy", 30, "the last one is young")
    assert http.check("unsettled")[2].startswith("1 flush committed and not settled")
    settled(client, 3)
    wait_until(lambda: http.check("unsettled")[2] == "every flush is settled", 30, "all settled")


def test_flush_settled_in_part(http: HttpWorld, client: redis.Redis) -> None:
    """The marker stands at the first of two batches."""
    flushed(http, 1, ago=90)
    with psycopg.connect(http.settings.require_database_url()) as connection:
        connection.execute("UPDATE viewer.flush SET batches = 2")
    client.hset("viewer:settled", mapping={"flush": 1, "batch": 1, "batches": 2})
    http.start()
    assert http.check("unsettled")[2].startswith("1 flush committed and not settled")


def test_marker_ahead_of_the_ledger(http: HttpWorld, client: redis.Redis) -> None:
    """PostgreSQL was restored from a backup: unhealthy."""
    settled(client, 9)
    flushed(http, 3)
    http.start()
    code, status, message = http.check("marker")
    assert (code, status) == (503, "unhealthy")
    assert message.startswith("PostgreSQL was rolled back, e.g. restored from a backup: ")
    assert "Redis has settled flush 9, the ledger ends at 3" in message
    assert http.check("unsettled")[1] == "healthy"


def test_redis_was_emptied(http: HttpWorld) -> None:
    """Degraded; runs go on."""
    flushed(http, 3, ago=600)
    http.start()
    code, status, message = http.check("marker")
    assert (code, status) == (200, "degraded")
    assert message.startswith("Redis was emptied or replaced")


# --- Dagster --------------------------------------------------------------------------------------------------------


def test_dagster_never_ran(http: HttpWorld) -> None:
    """Degraded while the worker is young."""
    http.start()
    assert http.check("daemon_sensor") == (200, "degraded", "Dagster has never run on this database")


def test_dead_daemon(well: HttpWorld, dagster: DagsterWorld) -> None:
    """Degraded without the freshness daemon. Daemons that flushes need are in test_health_rules."""
    dagster.beat("FRESHNESS_DAEMON", ago=300)
    wait_until(lambda: well.health()[:2] == (200, "degraded"), 30, "it is reported")
    assert well.check("daemon_freshness_daemon")[2] == "no heartbeat for 5 min"


def test_stopped_in_the_ui(well: HttpWorld, dagster: DagsterWorld) -> None:
    """One of both: degraded; both: unhealthy; heals."""
    dagster.register(sensor=False)
    wait_until(lambda: well.check("sensor")[:2] == (200, "degraded"), 30, "it is reported")
    dagster.register(sensor=False, sweep=False)
    wait_until(lambda: well.check("sweep")[:2] == (503, "unhealthy"), 30, "both are reported")
    assert well.check("sensor")[2] == "the sensor was stopped in Dagster's UI; nothing launches flushes"
    dagster.register()
    wait_until(lambda: well.health()[:2] == (200, "healthy"), 30, "it healed")


def test_tick_that_failed(well: HttpWorld, dagster: DagsterWorld) -> None:
    """Its error in one line, without the password."""
    ours = error_of(f"viewer_pipeline.errors.RedisUnavailable: Redis does not answer: redis://:{SECRET}@h:1: no\n")
    dagster.tick(SENSOR, error=error_of("Error occurred during the evaluation\n", ours))
    wait_until(lambda: well.check("sensor")[:2] == (200, "degraded"), 30, "it is reported")
    assert well.check("sensor")[2].endswith("s ago, failed: Redis does not answer: redis://:***@h:1: no")


def test_runs_that_fail(well: HttpWorld, dagster: DagsterWorld) -> None:
    """Once degraded, three times unhealthy; a run that succeeds heals."""
    dagster.run(dg.DagsterRunStatus.FAILURE)
    wait_until(lambda: well.check("flush_runs")[:2] == (200, "degraded"), 30, "it is reported")
    assert well.check("flush_runs")[2] == "the last flush run failed: its process ended"
    dagster.run(dg.DagsterRunStatus.FAILURE)
    dagster.run(dg.DagsterRunStatus.FAILURE)
    wait_until(lambda: well.check("flush_runs")[:2] == (503, "unhealthy"), 30, "three are reported")
    dagster.run(dg.DagsterRunStatus.SUCCESS)
    wait_until(lambda: well.health()[:2] == (200, "healthy"), 30, "it healed")
