"""A query with its ranking: what a stage of reranking takes and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from udq.common.progress import Progress, silent
from udq.photos import sandbox
from udq.photos.sandbox import Decoder
from udq.search.confidence import DEPTH, THRESHOLD
from udq.search.copies import Likenesses, Stack, Stacks
from udq.search.database import Database
from udq.search.ranking import Ranking, ranking_by_tables
from udq.search.rerank.shown_photos import ShownPhotos
from udq.search.scan import exhaustive
from udq.store.segments import StoredPhoto
from udq.types import Codes, Example, Features

# A place in Database.images -> the share of true matches expected among the photos at least as near.
Confidence = Callable[[int], float]

# Photos that are ranked at most to make up for copies.
_DEEPEST = 16_384


@dataclass
class Memo:
    """What the stages of one query have read and compared.

    Attributes:
        photos: by place.
        likenesses: of these; None until photos are stacked.
        shown: the photos that the examples come from; None until photos are compared with them.
    """

    photos: dict[int, StoredPhoto] = field(default_factory=dict)
    likenesses: Likenesses | None = None
    shown: ShownPhotos | None = None


@dataclass(frozen=True)
class RankedQuery:
    """A query and the ranking of a database by it.

    Attributes:
        database: the searched photos.
        query: (d,) float32, a feature f of unit length.
        lookup: (M, K) tables of the query.
        ranking: the nearest photos, best first, or all photos.
        wanted: number of photos in a ranking; None for all.
        without: places in ``Database.images`` that are left out of every ranking, such as a benchmark's query photo.
        examples: photos and boxes that the query was encoded from.
        decoder: decodes photos, those of the examples and of the collection.
        original: the ranking before any stage; None if no stage has been applied.
        contents: number of different contents that a ranking should contain: more photos are ranked until it does.
        progress: reports the steps of a stage that takes long.
        memo: what was read and compared already; shared with what stages make of this.
    """

    database: Database
    query: NDArray[np.float32]
    lookup: NDArray[np.float32]
    ranking: Ranking
    wanted: int | None
    without: tuple[int, ...] = ()
    examples: tuple[Example, ...] = ()
    decoder: Decoder = field(default_factory=sandbox.shared)
    original: RankedQuery | None = None
    contents: int = 0
    progress: Progress = silent
    memo: Memo = field(default_factory=Memo, repr=False)

    @classmethod
    def search(
        cls,
        database: Database,
        query: NDArray[np.float32],
        *,
        wanted: int | None,
        without: tuple[int, ...] = (),
        examples: tuple[Example, ...] = (),
        decoder: Decoder | None = None,
        contents: int = 0,
        progress: Progress = silent,
    ) -> RankedQuery:
        """Search a database and return the query with its ranking; arguments as in the attributes."""
        lookup = database.model.quantizer.lookup_tables(query)
        ranking = _ranking_without(database, lookup, wanted, without)
        decoding = decoder or sandbox.shared()
        ranked = cls(
            database, query, lookup, ranking, wanted, without, examples, decoding, contents=contents, progress=progress
        )
        return ranked.deepened()

    def search_again(self, query: NDArray[np.float32]) -> RankedQuery:
        """Search the same database by another query (d,) of unit length."""
        lookup = self.database.model.quantizer.lookup_tables(query)
        ranking = _ranking_without(self.database, lookup, self.wanted, self.without)
        again = replace(self, query=query, lookup=lookup, ranking=ranking, original=self.original or self)
        return again.lacking(self.ranking.missing).deepened()

    def lacking(self, photos: int) -> RankedQuery:
        """Return the same with at least that many ``missing``: photos that one step lacked cannot be made up for."""
        return replace(self, ranking=replace(self.ranking, missing=max(photos, self.ranking.missing)))

    def deepened(self) -> RankedQuery:
        """Return the same with more photos in the ranking, if copies leave fewer than ``contents`` different ones.

        More are also ranked if the last photo is a copy of a wanted one, because further copies may follow.
        """
        ranked = self
        while ranked.wanted is not None and ranked.contents and len(ranked.ranking.order) == ranked.wanted < _DEEPEST:
            if len(ranked.stacks()) >= ranked.contents <= ranked._stacks.last:
                break
            wanted = 2 * ranked.wanted
            ranking = _ranking_without(ranked.database, ranked.lookup, wanted, ranked.without)
            ranked = replace(ranked, wanted=wanted, ranking=ranking).lacking(ranked.ranking.missing)
        return ranked

    @cached_property
    def _stacks(self) -> Stacks:
        if self.memo.likenesses is None:
            self.memo.likenesses = Likenesses(self.database.model.quantizer if self.database.ranked else None)
        return Stacks(self.ranking.order, self.photos, self.memo.likenesses)

    def photos(self, places: Sequence[int]) -> list[StoredPhoto]:
        """Return what is stored of the photos at some places, each read once for all stages."""
        read = self.memo.photos
        unread = [place for place in places if place not in read]
        read.update(zip(unread, self.database.photos(unread), strict=True))
        return [read[place] for place in places]

    def stacks(self, count: int | None = None) -> list[Stack]:
        """Return the first ``count`` stacks of copies, or all, in the order of the ranking (``udq.search.copies``).

        A photo that an example comes from stands for its stack, otherwise the verified one with the largest coverage,
        otherwise the nearest.
        """
        return [self._led(stack) if len(stack.places) > 1 else stack for stack in self._stacks.first(count)]

    def _led(self, stack: Stack) -> Stack:
        verified = [self.ranking.verified.get(place) for place in stack.places]
        covered = [-1.0 if each is None else each.verification.coverage for each in verified]
        best = max(range(len(covered)), key=covered.__getitem__)
        return stack.led_by(next((row for row, photo in enumerate(stack.photos) if self._is_example(photo)), best))

    def _is_example(self, photo: StoredPhoto) -> bool:
        if self.memo.shown is None:
            self.memo.shown = ShownPhotos(self.examples)
        return photo in self.memo.shown

    def reordered(self, order: NDArray[np.int64]) -> RankedQuery:
        """Return the same with the first stacks in another order: ``order`` contains their ranks, from 0.

        Copies follow the first photo of their stack. The photos that the examples come from stay before all others.
        """
        stacks = self.stacks(len(order))
        ranks = sorted(order.tolist(), key=lambda rank: not self.shows_example(stacks[rank]))
        first = np.array([place for rank in ranks for place in stacks[rank].places], np.int64)
        others = self.ranking.order[~np.isin(self.ranking.order, first)]
        ranking = replace(self.ranking, order=np.concatenate([first, others]))
        return replace(self, ranking=ranking, original=self.original or self)

    def including(self, places: NDArray[np.int64], count: int) -> tuple[RankedQuery, int]:
        """Return the same with other photos behind the first stacks, and the number of stacks with them.

        Args:
            places: of photos, in any order; those that are left out of every ranking are ignored.
            count: number of first stacks.
        """
        ranking = self.ranking
        first = [place for stack in self.stacks(count) for place in stack.places]
        more = np.setdiff1d(places, [*first, *self.without])
        distance = ranking.distance.copy()
        unknown = more[np.isnan(distance[more])].tolist()
        for place, photo in zip(unknown, self.photos(unknown), strict=True):
            distance[place] = exhaustive.distances(self.lookup, photo.codes).min()
        more = more[np.argsort(distance[more], kind="stable")]
        rest = ranking.order[~np.isin(ranking.order, [*first, *more.tolist()])]
        order = np.concatenate([np.array(first, np.int64), more, rest])
        ranking = replace(ranking, order=order, distance=distance)
        included = replace(self, ranking=ranking, original=self.original or self)
        return included, len(self.stacks(count)) + len(more)

    @cached_property
    def confidence(self) -> Confidence:
        """Confidence in each photo by the original ranking (``udq.search.confidence``); stages do not change it.

        Copies count once and share the confidence of the nearest one. Photos that the examples come from and copies of
        these have a confidence of 1, and are left out when that of others is computed.
        """
        if self.original is not None:
            return self.original.confidence
        # Photos after the first DEPTH change no confidence before them.
        stacks = self.stacks(max(self.wanted or 0, DEPTH))
        own = [self.shows_example(stack) for stack in stacks]
        nearest = [stack.places[0] for stack, is_own in zip(stacks, own, strict=True) if not is_own]
        values = self.database.calibration.confidence(self.lookup, self.ranking.distance[nearest]).tolist()
        left = iter(values)
        of_stacks = [1.0 if is_own else next(left) for is_own in own]
        known = {place: sure for stack, sure in zip(stacks, of_stacks, strict=True) for place in stack.places}
        # Confidence never increases with the distance: for photos farther than these, the last value is a bound.
        last = values[-1] if values else 0.0
        return lambda place: round(known.get(place, last), 4)

    def shows_example(self, stack: Stack) -> bool:
        """Whether a stack contains a photo that an example of the object comes from."""
        return any(map(self._is_example, stack.photos))

    def sureness(self, place: int) -> float:
        """Return how sure a match is, 0..1: by its codes, or by the local features that agree, whichever is surer."""
        by_codes, verified = self.confidence(place), self.ranking.verified.get(place)
        if verified is None:
            return by_codes
        return max(by_codes, verified.confidence)

    def is_sure(self, stack: Stack) -> bool:
        """Whether a stack counts as found: the first of its photos is as sure as ``confidence.THRESHOLD``."""
        return self.sureness(stack.places[0]) >= THRESHOLD

    def best_regions(self, stacks: Iterable[Stack]) -> NDArray[np.float32]:
        """Return the best region of the first photo of each stack, decoded from its code.

        Returns:
            (n, d) float32 of unit length, in the space of the query.
        """
        quantizer = self.database.model.quantizer
        codes = [stack.photos[0].codes for stack in stacks]
        best = [each[exhaustive.distances(self.lookup, each).argmin()] for each in codes]
        if not best:
            return np.empty((0, quantizer.dimensions), np.float32)
        return quantizer.reconstruct(Codes(np.stack(best), quantizer.codewords)).unit().vectors


def _ranking_without(
    database: Database, lookup: NDArray[np.float32], wanted: int | None, without: tuple[int, ...]
) -> Ranking:
    """Return the ranking by tables (M, K) of ``wanted`` photos, or all, without those at some places."""
    ranking = ranking_by_tables(database, lookup, k=None if wanted is None else wanted + len(without))
    if not without:
        return ranking
    return replace(ranking, order=ranking.order[~np.isin(ranking.order, without)][:wanted])


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector (d,) scaled to unit length."""
    scaled: NDArray[np.float32] = Features(vector[None].astype(np.float32)).unit().vectors[0]
    return scaled
