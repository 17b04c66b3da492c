"""The server and the network that other tests rely on do what they say."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.servers import Network, Server, through


def one(url: str) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        return int(connection.execute(text("select 1")).scalar_one())


def test_a_database_is_reached_through_a_network_that_can_be_cut(postgres_database: str, network: Network) -> None:
    url = through(network, postgres_database)
    assert one(url) == 1
    network.cut()
    with pytest.raises(OperationalError):
        one(url)
    network.mend()
    assert one(url) == 1


def test_an_answer_is_lost_when_the_work_is_done(postgres_database: str, network: Network) -> None:
    engine = create_engine(through(network, postgres_database))
    with engine.begin() as connection:
        connection.execute(text("create table t (n int)"))
    network.lose_answer_to(b"COMMIT")
    with pytest.raises(OperationalError), engine.begin() as connection:
        connection.execute(text("insert into t values (1)"))
    assert network.has_lost
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from t")).scalar_one() == 1


def test_a_server_comes_back_with_what_it_had(postgres_server: Server, postgres_database: str) -> None:
    engine = create_engine(postgres_database, pool_pre_ping=True)
    with engine.begin() as connection:
        connection.execute(text("create table t (n int)"))
    postgres_server.stop()
    with pytest.raises(OperationalError):
        one(postgres_database)
    postgres_server.start()
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from t")).scalar_one() == 0
