"""The cluster that other tests stand on: nodes with addresses of their own that can be killed and cut off."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from cluster_nodes import Nodes, available, ping_often

pytestmark = pytest.mark.skipif(available() is not None, reason=f"no cluster here: {available()}")

PRELUDE = """
import json, os, sys, time
import ray
ray.init(sys.argv[1], logging_level="warning", log_to_driver=False)

@ray.remote(num_cpus=1, max_retries=0)
def work(seconds):
    time.sleep(seconds)
    return ray.util.get_node_ip_address()

def say(thing):
    print("say", json.dumps(thing), flush=True)  # Ray prints too, whatever it is told
"""


def drive(nodes, script):
    """Start a driver; Ray's global state, signal handlers and threads stay out of pytest."""
    code = PRELUDE + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, nodes.address], stdout=subprocess.PIPE
    )


def answer(driver, seconds=240):
    out, _ = driver.communicate(timeout=seconds)
    assert driver.returncode == 0
    return [json.loads(line[4:]) for line in out.splitlines() if line.startswith(b"say ")]


SPREAD = """
    spread = work.options(scheduling_strategy="SPREAD")
    say(sorted(set(ray.get([spread.remote(2) for _ in range(4)]))))
"""


@pytest.mark.cluster  # test_cluster.py has the case of two nodes that `make test` runs
def test_two_nodes_work_and_one_survives_the_other():
    health = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    with Nodes.start(2, environment=lambda host: health) as nodes:
        assert answer(drive(nodes, SPREAD)) == [[nodes.ip(1), nodes.ip(2)]]
        driver = drive(
            nodes,
            """
            spread = work.options(scheduling_strategy="SPREAD")
            tasks = [spread.remote(15) for _ in range(2)]
            say("started")
            ended = []
            for task in tasks:
                try:
                    ended.append(ray.get(task))
                except ray.exceptions.RayError as error:
                    ended.append(type(error).__name__)
            say(sorted(ended))
            """,
        )
        wait_for(lambda: nodes.workers(1, "work") and nodes.workers(2, "work"))
        nodes.kill(1)
        assert nodes.pids(1) == []
        assert answer(driver)[-1] == sorted([nodes.ip(2), "NodeDiedError"])
        assert answer(drive(nodes, "say(ray.get(work.remote(0)))")) == [nodes.ip(2)]
    assert nodes.pids(0) == nodes.pids(2) == []


@pytest.mark.cluster
def test_a_node_that_is_cut_off_for_a_moment_goes_on():
    with Nodes.start(1) as nodes:
        driver = drive(nodes, "say(ray.get(work.remote(5)))")
        wait_for(lambda: nodes.workers(1, "work"))
        nodes.cut(1)
        time.sleep(8)  # the answer falls into the gap
        assert driver.poll() is None
        nodes.heal(1)
        assert answer(driver) == [nodes.ip(1)]


@pytest.mark.cluster
def test_a_node_that_is_cut_off_for_long_is_given_up_and_another_takes_over(monkeypatch):
    ping_often(monkeypatch)
    health = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "3000"}
    health["RAY_health_check_failure_threshold"] = "3"
    with Nodes.start(1, environment=lambda host: health) as nodes:
        driver = drive(nodes, "say(ray.get(work.options(max_retries=1).remote(5)))")
        wait_for(lambda: nodes.workers(1, "work"))
        nodes.cut(1)
        assert nodes.add() == 2
        assert answer(driver) == [nodes.ip(2)]
        nodes.heal(1)
        wait_for(lambda: not nodes.alive(1))  # told that it was given up, a raylet ends itself


@pytest.mark.cluster
def test_one_worker_can_be_killed():
    with Nodes.start(1) as nodes:
        driver = drive(nodes, "say(ray.get(work.options(max_retries=1).remote(5)))")
        wait_for(lambda: nodes.workers(1, "work"))
        (worker,) = nodes.workers(1, "work")
        os.kill(worker, 9)
        assert answer(driver) == [nodes.ip(1)]
        assert worker not in nodes.pids(1)


@pytest.mark.cluster
def test_the_next_start_removes_what_a_killed_process_left():
    script = "from cluster_nodes import Nodes\nwith Nodes.start(1) as n: print(n.host, flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    killed = subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[1] / "support", **pipes
    )
    host = killed.stdout.readline().decode().strip()
    killed.kill()
    killed.communicate()
    space = f"rrn{host.split('.')[2]}-1"
    left = subprocess.run(
        ["ip", "netns", "pids", space], capture_output=True, text=True, check=True
    ).stdout.split()
    assert left
    with Nodes.start(0):
        assert not [pid for pid in left if Path(f"/proc/{pid}/cmdline").exists() and alive(int(pid))]


def alive(pid):
    return b"ray" in Path(f"/proc/{pid}/cmdline").read_bytes()


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
