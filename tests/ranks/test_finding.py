"""What ``distributed=`` takes, and what it refuses."""

import contextlib
import logging
import sys
from types import SimpleNamespace

import pytest
from threads import on_ranks

from bp_xp.backends import place
from bp_xp.cli._ranks import ranks_of
from bp_xp.ranks import Communicator, find_ranks, finding, mpi

NUMPY = place("cpu")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*mpi._SIZES, "TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("distributed", [None, "auto"])
def test_a_process_that_nobody_has_started_as_one_of_several_is_alone(distributed):
    ranks = find_ranks(distributed, NUMPY)
    assert (ranks.rank, ranks.size, ranks.total) == (0, 1, None)
    assert ranks.each(lambda: 3) == [3]
    assert ranks.first(lambda: 4) == ranks.together(lambda: 4) == 4


def test_a_communicator_passes():
    def find(one):
        ranks = find_ranks(one, NUMPY)
        return ranks.rank, ranks.size, isinstance(one, Communicator)

    assert on_ranks(2, find) == [(0, 2, True), (1, 2, True)]


def test_mpi_is_named_with_its_extra_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    mpi.world.cache_clear()
    with pytest.raises(ImportError, match=r"mpi4py is not installed.*bp_xp\[mpi\]"):
        find_ranks("mpi", NUMPY)


@pytest.mark.parametrize(
    ("variable", "size"), [("PMI_SIZE", "2"), ("OMPI_COMM_WORLD_SIZE", "16")], ids=["mpich", "open"]
)
def test_auto_takes_what_has_started_the_process(monkeypatch, variable, size):
    monkeypatch.setenv(variable, size)
    monkeypatch.setattr(mpi, "world", lambda: None)
    asked = []
    monkeypatch.setattr(finding, "_communicator", lambda word, placement: asked.append(word))
    find_ranks("auto", NUMPY)
    assert asked == ["mpi"]


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match=r"unknown distributed 'mpy'.*Did you mean 'mpi'"):
        find_ranks("mpy", NUMPY)
    with pytest.raises(TypeError, match=r"must be one of 'auto', 'mpi'.* not 4"):
        find_ranks(4, NUMPY)


def test_a_library_that_does_not_talk_by_mpi_says_so():
    strict = place(backend=pytest.importorskip("array_api_strict"))
    with pytest.raises(ValueError, match=r"backend 'numpy' or 'cupy', .* 'array_api_strict'"):
        find_ranks("mpi", strict)


def test_auto_tells_what_has_started_the_process_where_the_network_can_not_talk_so(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    strict = place(backend=pytest.importorskip("array_api_strict"))
    words = (
        r"started as by mpiexec .* networks of backend 'numpy' .* is 'array_api_strict'\. Either"
    )
    with pytest.raises(ValueError, match=words):
        find_ranks("auto", strict)
    pytest.importorskip("torch")
    words = (
        r"is 'torch'\. Start it with torchrun .*, take backend='numpy', or leave distributed out"
    )
    with pytest.raises(ValueError, match=words):
        find_ranks("auto", place("cpu", "torch"))


def test_a_command_that_each_process_runs_for_itself_says_so(monkeypatch, caplog):
    alone = SimpleNamespace(distributed=None)
    with caplog.at_level(logging.WARNING, "bp_xp"):
        assert not ranks_of(alone, NUMPY).are_several
        assert not caplog.messages
        monkeypatch.setenv("PMI_SIZE", "2")
        assert not ranks_of(alone, NUMPY).are_several
    assert "--distributed auto lets them share the run" in caplog.text


class Comm:
    """A communicator of mpi4py's on one of four ranks, of which some come a little later."""

    def __init__(self, rank, late):
        self.rank, self.late, self.asked, self.sent, self.received = rank, late, 0, [], []

    Get_rank, Get_size = (lambda self: self.rank), (lambda self: 4)

    def isend(self, value, *, dest, tag):
        self.sent.append(dest)
        return SimpleNamespace(wait=lambda: None)

    def Iprobe(self, *, source, tag):  # noqa: N802 - the name that MPI gives it
        self.asked += source in self.late
        return source not in self.late or self.asked > 9

    def recv(self, *, source, tag):
        self.received.append(source)


@pytest.mark.parametrize(
    ("seconds", "rank", "late", "says"),
    [
        (60.0, 0, [2], None),
        (-1.0, 0, [2], "rank 0 has waited .* for rank 2 to begin"),
        (-1.0, 1, [0], "rank 1 has waited .* for rank 0 to begin"),
        (-1.0, 2, [0, 1], "rank 2 has waited .* for ranks 0, 1 to begin"),
        (-1.0, 2, [0], None),
    ],
)
def test_the_lowest_rank_says_for_whom_it_has_waited_long(seconds, rank, late, says, monkeypatch):
    monkeypatch.setattr(mpi, "_SECONDS_UNTIL_TOLD", seconds)
    monkeypatch.setattr(mpi, "_twin", lambda comm: comm)
    comm = Comm(rank, late)
    others = [other for other in range(4) if other != rank]
    with pytest.warns(match=says) if says else contextlib.nullcontext():
        mpi.MPICommunicator(comm).meet()
    assert comm.sent == others
    assert sorted(comm.received) == others
