"""State moves freely between a GPU and a CPU."""

import shutil
from pathlib import Path

from tests.support.own_cases import GRU, Case
from tests.support.player import Player
from tests.support.redis_server import RedisServer
from tests.support.service import Launch
from tests.support.sources import own_models


def test_a_session_goes_on_from_a_gpu_to_a_cpu_and_back(launch: Launch, tmp_path: Path) -> None:
    """Two services with one Redis: for the state it makes no difference where the module is."""
    player = Player("gru", seed=3)
    redis = RedisServer().start()
    try:
        clients = []
        for device in ("cuda:0", "cpu", "auto"):
            case = Case(own_models.Gru, f'{GRU}device = "{device}"')
            # The weights are those of the case that the player compares with.
            weights = Case(own_models.Gru, GRU).write(tmp_path / "weights" / device, "gru") / "1"
            shutil.copytree(weights, case.write(tmp_path / device, "gru") / "1", dirs_exist_ok=True)
            clients.append(launch(MODEL_REPOSITORY=tmp_path / device, REDIS_URL=redis.url, WORKERS=1).client())
        address = clients[0].create("gru")
        for client in clients * 2:
            player.step(client, address)
    finally:
        redis.end()
