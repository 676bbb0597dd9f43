"""What the metrics tell of the replica set and its disk, of a real mongod that goes away."""

from __future__ import annotations

import pytest
from pymongo.errors import PyMongoError

from real_mongod import RealMongod
from trainingsession_operator.mongodb import connect, disk_of, member_states


def test_a_member_that_goes_away_is_unreachable_and_its_disk_unknown(tmp_path):
    server = RealMongod(tmp_path)
    server.start()
    server.initiate()
    client = connect(server.uri)
    try:
        client.admin.command("ping")
        none = dict.fromkeys(("secondary", "arbiter", "other"), 0)
        assert member_states(client) == {"primary": 1, "unreachable": 0, **none}
        used, size = disk_of(client) or (0, 0)
        assert 0 < used <= size
        server.kill()
        with pytest.raises(PyMongoError):
            client.admin.command("ping")
        assert member_states(client) == {"primary": 0, "unreachable": 1, **none}
        assert disk_of(client) is None
    finally:
        client.close()
        server.stop()
