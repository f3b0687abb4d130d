"""A worker that runs, and that a gateway cannot reach, or cannot hear, or neither."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from survival.checks import slowest
from survival.cluster import eventually
from survival.history import History

from hosts.checks import FOUND_S, MOVED_S, assert_promised, assert_untouched, executed_again, executed_by
from hosts.cluster import HostCluster, HostGateway, Worker
from hosts.commands import LONG_S
from hosts.network import Arrow, both, cut

BACK_S = 5.0  # after the healing, until it is used again
SETTLED_S = 1.0  # after the loss was found, or the cut made: what was on its way has arrived


class Partition:
    """Cuts the arrows under load until `losers`, the gateways that lose the worker, have found that; then heals them.

    `histories` are those of the gateways' clients, the times are when what they say was so.
    """

    def __init__(
        self,
        cluster: HostCluster,
        measured: Callable[[str], None],
        worker: Worker,
        losers: Sequence[HostGateway],
        arrows: Sequence[Arrow],
    ) -> None:
        ended = links_ended(worker)
        frozen = {gateway: gateway.counter("workers_frozen") for gateway in losers}
        with cluster.loads() as (loads, self.histories):
            self.cut_at = time.monotonic()
            with cut(*arrows):
                for gateway in losers:
                    eventually(lambda gateway=gateway: gateway.counter("workers_frozen") > frozen[gateway], "found")  # type: ignore[misc]
                self.found_at = time.monotonic()
                for load in loads:
                    load.wait_answers(1000)
                linked = {gateway.host.name for gateway in cluster.gateways if worker.id in gateway.ready_links()}
                self.healed_at = time.monotonic()
            cluster.wait_links()
            self.back_at = time.monotonic()
            # What TCP still had to deliver when the cable was pulled comes now, before the old link's end.
            eventually(lambda: links_ended(worker) >= ended + len(losers), "the worker knows that the old links ended")
            for load in loads:
                load.wait_answers(500)
        assert linked == {gateway.host.name for gateway in cluster.gateways if gateway not in losers}
        found_s, back_s = self.found_at - self.cut_at, self.back_at - self.healed_at
        measured(f"found after {found_s:.2f} s, linked again {back_s:.2f} s after the healing")
        # One that hears nothing more is itself heard until it has finished what it had begun.
        assert found_s - self._stalled(self.cut_at, self.found_at) <= FOUND_S + LONG_S
        assert back_s - self._stalled(self.healed_at, self.back_at) <= BACK_S
        self._worker = worker.host.name
        for history in self.histories:
            assert self.executed(history, self.back_at), "healed, and not used again"

    def _stalled(self, since: float, until: float) -> float:
        """For how long the machine stood still in that time."""
        return sum(stall.took for stall in self.histories[0].stalls if since <= stall.at <= until)

    def executed(self, history: History, since: float, until: float = float("inf")) -> int:
        """How many packets the worker began in that time."""
        return executed_by(history, self._worker, since, until)

    def check_moved(self, history: History, measured: Callable[[str], None]) -> None:
        """The promises to clients of a gateway that lost the worker."""
        assert_promised(history)
        assert history.again, "it had nothing in flight"
        assert any(self.cut_at <= error.at <= self.healed_at for error in history.errors), "nor anything at-most-once"
        assert not self.executed(history, self.found_at + SETTLED_S, self.healed_at)
        what = f"{len(history.again)} sent again, {len(history.errors)} outcomes unknown"
        assert slowest(history, measured, what) <= MOVED_S


def links_ended(worker: Worker) -> int:
    """As its log says."""
    return sum(line.endswith(" ended") and " link to gateway " in line for line in list(worker.process.lines))


def test_from_one_gateway(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    worker, _, _ = cluster.workers
    lost, kept = cluster.gateways
    partition = Partition(cluster, measured, worker, [lost], both(worker.host, lost.host))
    moved, untouched = partition.histories
    partition.check_moved(moved, measured)
    assert partition.executed(untouched, partition.found_at, partition.healed_at), f"{kept.host} left it, too"
    assert_untouched(untouched, measured, "the other gateway's clients")


def test_it_hears_a_gateway_and_is_not_heard(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    """It executes what it gets, and its answers are lost: so these packets are executed twice, marked as such."""
    _, worker, _ = cluster.workers
    lost, _ = cluster.gateways
    partition = Partition(cluster, measured, worker, [lost], [(worker.host, lost.host)])
    moved, untouched = partition.histories
    partition.check_moved(moved, measured)
    twice = [each for each in executed_again(moved) if each[0].worker == worker.host.name]
    measured(f"{len(twice)} executed there and elsewhere")
    assert twice
    assert all([one.attempt for one in each] == [0, 1] and each[0].key == each[1].key for each in twice)
    assert_untouched(untouched, measured, "the other gateway's clients")


def test_it_is_heard_and_does_not_hear_a_gateway(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    """Nothing of what was sent to it arrives, until the healing: then it is another worker's, and must not run."""
    _, _, worker = cluster.workers
    _, lost = cluster.gateways
    partition = Partition(cluster, measured, worker, [lost], [(lost.host, worker.host)])
    untouched, moved = partition.histories
    partition.check_moved(moved, measured)
    assert not partition.executed(moved, partition.cut_at + SETTLED_S, partition.healed_at)
    assert_untouched(untouched, measured, "the other gateway's clients")


def test_from_everybody(cluster: HostCluster, measured: Callable[[str], None]) -> None:
    worker, _, _ = cluster.workers
    others = [cluster.consul, *(gateway.host for gateway in cluster.gateways)]
    arrows = [arrow for other in others for arrow in both(worker.host, other)]
    partition = Partition(cluster, measured, worker, cluster.gateways, arrows)
    for history in partition.histories:
        partition.check_moved(history, measured)
    eventually(lambda: cluster.checks(worker) == {"passing"}, "Consul has it back")
