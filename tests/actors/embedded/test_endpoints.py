import json
import stat
from pathlib import Path

from actors.embedded.endpoints import EndpointsFile
from runtime.board import Board


def read(path):
    return json.loads(path.read_text())


def test_the_file_is_the_boards_image_and_private(tmp_path):
    path, board = tmp_path / "endpoints.json", Board()
    file = EndpointsFile(path=path)
    file.put(board, "timescale", "postgresql://u:p@127.0.0.1:1/market")
    file.put(board, "clickhouse", "http://127.0.0.1:2")
    assert read(path) == board.endpoints
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file.remove(board, "timescale")
    assert read(path) == {"clickhouse": "http://127.0.0.1:2"}


def test_what_another_actor_put_on_the_board_is_written_with_the_next_probe(tmp_path):
    path, board = tmp_path / "endpoints.json", Board()
    file = EndpointsFile(path=path)
    file.put(board, "market", "http://127.0.0.1:3")
    board.endpoints["health"] = "http://127.0.0.1:8800"
    file.put(board, "market", "http://127.0.0.1:3")
    assert read(path) == {"market": "http://127.0.0.1:3", "health": "http://127.0.0.1:8800"}


def test_an_unchanged_board_is_not_written_again(tmp_path):
    path, board = tmp_path / "endpoints.json", Board()
    file = EndpointsFile(path=path)
    file.put(board, "market", "http://127.0.0.1:3")
    before = path.stat()
    file.put(board, "market", "http://127.0.0.1:3")
    assert path.stat().st_ino == before.st_ino


def test_addresses_of_a_killed_life_do_not_survive_the_first_change_of_the_next(tmp_path):
    path = tmp_path / "endpoints.json"
    path.write_text('{"clickhouse": "http://127.0.0.1:9"}')
    EndpointsFile(path=path).put(Board(), "market", "http://127.0.0.1:3")
    assert read(path) == {"market": "http://127.0.0.1:3"}


def test_a_full_disk_is_tried_again_and_kills_nobody(tmp_path, monkeypatch):
    path, board = tmp_path / "endpoints.json", Board()
    file = EndpointsFile(path=path)

    def full(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        file.put(board, "market", "http://127.0.0.1:3")
    assert not path.exists()
    file.sync(board.endpoints)
    assert read(path) == board.endpoints
