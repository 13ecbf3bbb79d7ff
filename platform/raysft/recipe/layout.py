"""Where each rank stands in the grid of workers. Pure; nobody else turns a rank into coordinates.

Pipeline stages are outermost and tensor shards innermost, so that those who talk most are neighbours on one node
(Narayanan et al. 2021, arXiv:2104.04473, section 3); DeepSpeed's pipeline topology has the same order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Coordinate:
    """One rank: 0-based places on the four axes."""

    stage: int
    replica: int
    """Data-parallel: ranks of one replica get the same rows."""
    sequence: int
    tensor: int

    @property
    def counts_for_replica(self) -> bool:
        """The one rank of its replica that counts what all of its ranks know."""
        return self.stage == self.sequence == self.tensor == 0


@dataclass(frozen=True)
class Layout:
    """Sizes of the four axes."""

    stages: int
    replicas: int
    sequence: int
    tensor: int

    @property
    def size(self) -> int:
        """Workers."""
        return self.stages * self.replicas * self.sequence * self.tensor

    def coordinate(self, rank: int) -> Coordinate:
        """Where rank 0 .. size - 1 stands."""
        rest, tensor = divmod(rank, self.tensor)
        rest, sequence = divmod(rest, self.sequence)
        stage, replica = divmod(rest, self.replicas)
        return Coordinate(stage=stage, replica=replica, sequence=sequence, tensor=tensor)

    def rank(self, place: Coordinate) -> int:
        """The inverse of coordinate()."""
        row = place.stage * self.replicas + place.replica
        return (row * self.sequence + place.sequence) * self.tensor + place.tensor

    def groups(self, *axes: str) -> list[list[int]]:
        """Ranks that differ only on these axes (`stage`, `replica`, `sequence`, `tensor`), group by group."""
        found: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.size):
            place = self.coordinate(rank)
            others = {"stage": place.stage, "replica": place.replica}
            others |= {"sequence": place.sequence, "tensor": place.tensor}
            found.setdefault(tuple(value for name, value in others.items() if name not in axes), []).append(rank)
        return list(found.values())
