"""What happens to a deployment in its life: crashes, stops, another size, another version."""

import time

from tests.compose.deployment import Deployment, docker
from tests.compose.terminal import say
from tests.support.waiting import eventually

INTERVAL = 0.2
"""Seconds between two looks at a deployment."""


class Faults:
    """Each returns when the deployment is whole again, and a moment after."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def kill_worker(self) -> None:
        """kill -9 one worker: gunicorn makes another."""
        deployment, replica = self._deployment, self._deployment.containers("service")[0]
        worker = deployment.processes(replica)[1][0]
        deployment.kill(replica, worker)

        def replaced() -> bool:
            workers = deployment.processes(replica)[1]
            return bool(workers) and worker not in workers

        eventually("another worker", replaced, interval=INTERVAL)
        time.sleep(2)

    def kill_gunicorn(self) -> None:
        """kill -9 the main process of a replica: the container ends, and the engine starts it again."""
        deployment, replica = self._deployment, self._deployment.containers("service")[1]
        started = deployment.inspect(replica)["State"]["StartedAt"]
        deployment.kill(replica, deployment.processes(replica)[0])
        eventually("a restart", lambda: deployment.inspect(replica)["State"]["StartedAt"] != started, interval=INTERVAL)

        def healthy() -> bool:
            return bool(deployment.inspect(replica)["State"]["Health"]["Status"] == "healthy")

        eventually("health", healthy, interval=INTERVAL)
        time.sleep(2)

    def stop_replica(self) -> None:
        """Stop a replica as an engine does that is shut down, and start it again."""
        replica = self._deployment.containers("service")[-1]
        docker("stop", replica)
        time.sleep(2)
        docker("start", replica)
        time.sleep(4)

    def scale(self, replicas: int) -> None:
        """Change the number of replicas, and see all of them get requests, and no other."""
        deployment = self._deployment
        deployment.scale(replicas)

        def serving() -> int:
            before = deployment.answered()
            time.sleep(1)
            return sum(count > before.get(replica, 0) for replica, count in deployment.answered().items())

        eventually("requests to every replica", lambda: serving() == replicas)

    def upgrade(self) -> None:
        """Change the code, and replace all replicas one by one."""
        deployment = self._deployment
        replicas = deployment.containers("service")
        before = {deployment.inspect(replica)["Image"] for replica in replicas}
        (deployment.folder / "service" / "changed.py").write_text(f'"""A change of the code: {time.time_ns()}."""\n')
        start = time.monotonic()
        account = deployment.build("service")
        say(f"a code change is built in {time.monotonic() - start:.1f} s, torch and the other packages unchanged")
        assert deployment.build_steps(account, "pip --python /venv install") == ["CACHED"] * 3
        deployment.script("upgrade")
        upgraded = deployment.containers("service")
        after = {deployment.inspect(replica)["Image"] for replica in upgraded}
        assert len(upgraded) == len(replicas)
        assert len(after) == 1
        assert not after & before

    def kill_redis(self) -> None:
        """kill -9 Redis: the engine starts it again."""
        deployment, (redis,) = self._deployment, self._deployment.containers("redis")
        started = deployment.inspect(redis)["State"]["StartedAt"]
        docker("exec", redis, "sh", "-c", 'kill -9 "$(pidof redis-server)"')
        eventually("a restart", lambda: deployment.inspect(redis)["State"]["StartedAt"] != started, interval=INTERVAL)
        eventually("readiness", deployment.ready, interval=INTERVAL)
        time.sleep(2)

    def lose_redis(self) -> None:
        """kill -9 Redis, and be without it for 3 seconds."""
        (redis,) = self._deployment.containers("redis")
        docker("kill", redis)  # what was ended by hand is not started again by itself
        time.sleep(3)
        docker("start", redis)
        eventually("readiness", self._deployment.ready, interval=INTERVAL)
        time.sleep(2)
