"""ColTrack: a DINO-style detector whose queries stay with the objects they found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .backbone import Levels, Pyramid
from .config import ModelOptions
from .decoder import Decoded, Decoder, Memory
from .encoder import Encoder, ProposalHead, Proposals
from .geometry import from_box, to_box
from .likeness import Likeness
from .queries import Assembled, Denoising, TrackQueries, assemble


class Given(NamedTuple):
    """Boxes that come from elsewhere: `boxes` (N, 4) (cx, cy, w, h) and `scores` (N,)."""

    boxes: Tensor
    scores: Tensor


class Frame(NamedTuple):
    """What the network says about one frame.

    `decoded` covers all queries in the order of `queries`; `proposals` are the encoder's (None
    with given boxes).
    """

    decoded: Decoded
    queries: Assembled
    proposals: Proposals | None

    def part(self, begin: int, end: int | None) -> Decoded:
        """Return the predictions of some queries."""
        d = self.decoded
        return Decoded(d.logits[:, begin:end], d.boxes[:, begin:end], d.content[begin:end])

    def settled(self, place: Tensor, given: Given | None) -> tuple[Tensor, Tensor]:
        """Return contents (N + n, d) and boxes (N + n, 4) with which the leading queries go on.

        Those with a given box (`place` (N + n,), else -1) take it, and the content of the detect
        query that started there.
        """
        content, boxes = self.leading.content, self.leading.boxes[-1]
        if given is None:
            return content, boxes
        held = (place >= 0).nonzero()[:, 0]
        where = place[held]
        return (
            content.index_put((held,), content[where]),
            boxes.index_put((held,), given.boxes[where].to(boxes.dtype)),
        )

    @property
    def noise(self) -> Decoded:
        """Predictions of the denoising queries."""
        return self.part(0, self.queries.noise)

    @property
    def leading(self) -> Decoded:
        """Predictions of detect queries, then of main track queries."""
        start = self.queries.noise
        return self.part(start, self.queries.first_track + self.queries.mains)

    @property
    def historical(self) -> Decoded:
        """Predictions of historical queries."""
        return self.part(self.queries.first_track + self.queries.mains, None)


class ColTrack(nn.Module):
    """Backbone, encoder, proposals and decoder. `encode` many frames at once, `decode` one."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.options = options
        o, classes = options, len(options.class_names)
        self.pyramid = Pyramid(o.backbone, o.dim, o.levels, o.width)
        self.encoder = Encoder(o.dim, o.heads, o.levels, o.encoder_points, o.ffn, o.encoder_layers)
        self.proposal_head = ProposalHead(o.dim, classes)
        self.decoder = Decoder(
            o.dim, o.heads, o.levels, o.decoder_points, o.ffn, o.decoder_layers, classes, o.irm
        )
        self.tgt_embed = nn.Embedding(o.queries, o.dim)
        self.label_enc = nn.Embedding(classes + 1, o.dim)
        # For given boxes, of which there may be any number: one content, moved by score and place.
        # Values of attention carry no position: without its own, a box far from a track's last
        # one could be recognised, but not gone to.
        self.given_embed = nn.Parameter(torch.zeros(2, o.dim))
        self.given_box = nn.Linear(4, o.dim)
        self.given_likeness = Likeness(o.dim)
        nn.init.normal_(self.tgt_embed.weight)
        nn.init.normal_(self.given_embed)

    def forward(self, images: Tensor) -> Tensor:
        """Detect in images (B, 3, H, W) in [0, 1]: boxes and probabilities (B, N, 4 + C)."""
        memory = self.encode(images)
        rows = []
        for index in range(len(images)):
            found = self.decode(memory.frame(index), self.no_tracks(images.device), last_only=True)
            rows.append(
                torch.cat((found.decoded.boxes[-1], found.decoded.logits[-1].sigmoid()), -1)
            )
        return torch.stack(rows)

    def no_tracks(self, device: torch.device | None = None) -> TrackQueries:
        """Return an empty set of tracks."""
        return TrackQueries.none(self.options.dim, self.options.bank, device)

    def encode(self, images: Tensor, extent: Tensor | None = None) -> Memory:
        """Return the memory of images (B, 3, H, W) in [0, 1].

        `extent` (B, 2): the share (width, height) of each image that is no padding.
        """
        return self._remember(self.pyramid(self.pyramid.see(images), extent))

    def remember(self, frames: Tensor | Sequence[Tensor] | Memory) -> Memory:
        """Return the memory of whole frames: of images, of the backbone's maps, or as it is."""
        if isinstance(frames, Memory):
            return frames
        if isinstance(frames, Tensor):
            return self.encode(frames)
        return self._remember(self.pyramid(frames))

    def _remember(self, levels: Levels) -> Memory:
        return Memory(self.encoder(levels), levels.shapes, levels.padding, levels.extent)

    def decode(
        self,
        memory: Memory,
        tracks: TrackQueries,
        given: Given | None = None,
        denoising: Denoising | None = None,
        *,
        last_only: bool = False,
        apart: bool = False,
    ) -> Frame:
        """Look at one frame (memory with B = 1) with the queries of the live tracks.

        Detect queries start at the encoder's best proposals, or at the boxes that are given. With
        `apart` they do not see the tracks, and find what they would find without.
        """
        proposals = None
        if given is None:
            proposals = self.proposal_head(
                memory.tokens, memory.shapes, memory.extent, memory.padding
            )
            content, boxes = self._select(proposals)
        else:
            boxes = given.boxes
            content = self.given_embed[0] + given.scores[:, None] * self.given_embed[1]
            content = content + self.given_box(from_box(boxes))
        queries = assemble(content, boxes, tracks, denoising, self.options.blocking, apart)
        return Frame(self.decoder(queries, memory, last_only=last_only), queries, proposals)

    def likeness(self, frame: Frame, tracks: TrackQueries, given: Given) -> Tensor:
        """Return logits (n, N) that given boxes are what the tracks follow.

        A track is known by what its queries brought into the frame: where it went they have not
        been, a box's detect query has.
        """
        leading, detects = frame.leading, frame.queries.detects
        return self.given_likeness(
            torch.cat((tracks.main, tracks.history[tracks.held])),
            frame.queries.track,
            tracks,
            leading.boxes[-1, detects:],
            leading.content[:detects],
            given.boxes,
        )

    def _select(self, proposals: Proposals) -> tuple[Tensor, Tensor]:
        """Mixed query selection (DINO): boxes from the best tokens, content from an embedding."""
        scores = proposals.logits[0].amax(-1)
        count = min(self.options.queries, len(scores))
        best = scores.topk(count).indices
        return self.tgt_embed.weight[:count], to_box(proposals.anchors[0, best]).detach()

    def stage_two(self) -> None:
        """Freeze backbone and encoder, and start the decoder and the detect queries anew."""
        for part in (self.pyramid, self.encoder, self.proposal_head):
            part.requires_grad_(False)
        fresh = ColTrack(self.options)
        self.decoder.load_state_dict(fresh.decoder.state_dict())
        self.tgt_embed.load_state_dict(fresh.tgt_embed.state_dict())
