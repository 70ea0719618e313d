"""PyTorch twin of one training step of the original's local hierarchy.

Written from the method (docs/method.md and the reference numbers), never from anyone's code,
so that our step is timed against the same arithmetic. torch is an optional dependency. Names are
the original's, so reference parameters load as they are: backbone = patch, space = frame,
time = clip, clip = sequence. The twin keeps the original's faults: leaking targets, misordered
causal states, down targets from the first frame or clip under side prediction.

Shapes: B batch, F frames, P patches, D width; a level makes G tokens a video, each from N members.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LEVELS = ("backbone", "space", "time", "clip")
RELATIONS = {"u": "up", "d": "down", "s": "side"}


@dataclasses.dataclass(frozen=True)
class LevelConfig:
    """One transformer level; `code_axes` (the original's nD) splits a two-part code's width."""

    name: str
    width: int
    depth: int
    heads: int
    head_width: int
    mlp_width: int
    causal: bool
    code_axes: int
    predictor_hidden: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TwinConfig:
    """Everything the twin's step depends on.

    hierarchy: the trained levels, a run of LEVELS; `backbone` may be missing.
    levels: the transformer levels of the hierarchy, lowest first.
    stem: "linear", or "conv" for the S3D stem, whose map has a quarter of the rows and columns.
    stem_norm: batch norm of the patch tokens.
    patch_size: edge of a patch in positions of the stem's map (pixels for the linear stem).
    height, width: of the video, pixels. frames: of the whole video. clips: groups of frames.
    loss: "MSE", "CE", "CS" or "VICReg"; loss_params are its keyword arguments.
    loss_weights: `<level>_<up|down|side>` -> weight; a missing edge has weight 1.
    """

    hierarchy: tuple[str, ...]
    levels: tuple[LevelConfig, ...]
    stem: str
    stem_width: int
    stem_norm: bool
    patch_size: int
    patch_width: int
    patch_predictor_hidden: tuple[int, ...]
    frames: int
    clips: int
    height: int
    width: int
    num_classes: int
    output_batch_norm: bool
    loss: str
    loss_params: dict[str, float]
    loss_weights: dict[str, float]
    side: bool
    std_divisor: float
    learning_rate: float
    momentum: float
    predictor_multiplier: float

    def __post_init__(self) -> None:
        start = LEVELS.index(self.hierarchy[0])
        if self.hierarchy != LEVELS[start : start + len(self.hierarchy)]:
            raise ValueError(f"hierarchy {self.hierarchy} is not a run of {LEVELS}")
        expected = tuple(v for v in self.hierarchy if v != "backbone")
        names = tuple(v.name for v in self.levels)
        if names != expected:
            raise ValueError(f"levels {names} do not match the hierarchy's {expected}")
        if self.frames % self.clips or self.height % self.cell or self.width % self.cell:
            raise ValueError(
                f"{self.frames} frames in {self.clips} clips, or {self.height}x{self.width} pixels "
                f"in cells of {self.cell}: choose sizes that divide"
            )

    @property
    def cell(self) -> int:
        """Edge of a patch in pixels."""
        return self.patch_size * (4 if self.stem == "conv" else 1)

    def counts(self, name: str) -> tuple[int, int]:
        """Return (groups per video, members per group) of a transformer level."""
        patches = (self.height // self.cell) * (self.width // self.cell)
        return {
            "space": (self.frames, patches),
            "time": (self.clips, self.frames // self.clips),
            "clip": (1, self.clips),
        }[name]

    def positions(self, name: str) -> int:
        """Return how many positions in time a level has: frames, clips or 1."""
        return {"time": self.clips, "clip": 1}.get(name, self.frames)

    def level(self, name: str) -> LevelConfig:
        """Return the configuration of a transformer level."""
        return next(v for v in self.levels if v.name == name)

    @classmethod
    def from_golden(cls, meta: dict[str, Any]) -> TwinConfig:
        """Read the configuration of a stored step from the decoded `meta_json` of its file."""
        arch, train = meta["config"]["arch"], meta["config"]["train"]
        data = meta["config"]["data"][train["dataset"]]
        hierarchy = tuple(meta["groups"])
        patch, time = arch["architecture_backbone"], arch["architecture_time"]
        conv, norm = bool(patch["use_cnn_stem"]), bool(arch["output_batchnorm"])
        return cls(
            hierarchy=hierarchy,
            levels=tuple(
                _level_from_arch(name, arch[f"architecture_{name}"]) for name in hierarchy if name != "backbone"
            ),
            stem="conv" if conv else "linear",
            stem_width=patch["out_channels"] if conv else patch["in_channels"],
            # The original lists no norm for the patches of a linear stem (fix F1: skip or create).
            stem_norm=norm and (conv or meta["fixes"]["nostem_norm"] == "create"),
            patch_size=arch["architecture_space"]["size_ratio"],
            patch_width=patch["dim"],
            patch_predictor_hidden=_hidden_dims(patch["pred_h_dim"]),
            # Without a level above space the model sees images, whatever the sampler's length says.
            frames=time["input_size"] if "time" in hierarchy else 1,
            clips=time["size_ratio"] if "clip" in hierarchy else 1,
            height=data["sampler"]["height"],
            width=data["sampler"]["width"],
            num_classes=data["num_classes"],
            output_batch_norm=norm,
            loss=train["loss_fn"],
            loss_params=train["loss_params"].get(train["loss_fn"].upper(), {}),
            loss_weights=train["loss_weights"],
            side=bool(train["use_temporal_prediction"]),
            std_divisor=train["std_divisor"],
            learning_rate=train["optimizer"]["lr"],
            momentum=train["optimizer"]["momentum"],
            predictor_multiplier=train["predictor"]["pred_multiplier"],
        )


def _hidden_dims(value: str | list[int] | None) -> tuple[int, ...]:
    """Hidden widths of a predictor; the original writes the list as text, and None means none."""
    dims = ast.literal_eval(value) if isinstance(value, str) else value
    return tuple(dims or ())


def _level_from_arch(name: str, arch: dict[str, Any]) -> LevelConfig:
    return LevelConfig(
        name=name,
        width=arch["dim"],
        depth=arch["layers"],
        heads=arch["heads"],
        head_width=arch["head_dim"],
        mlp_width=arch["mlp_dim"],
        causal=bool(arch["causal_mask"]),
        code_axes=arch["nD"],
        predictor_hidden=_hidden_dims(arch["pred_h_dim"]),
    )


class ChannelNorm(nn.Module):
    """Batch norm of the last axis over all other axes; statistics under the name `l`."""

    def __init__(self, width: int):
        super().__init__()
        self.l = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [..., D] over all rows."""
        return self.l(x.reshape(-1, x.shape[-1])).view(x.shape)


def _stem_norm(width: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(width, eps=1e-3, momentum=0.001)


class PlainConv(nn.Module):
    """1x1x1 convolution, batch norm, ReLU on [B, channels, T, Y, X]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 1, bias=False)
        self.bn = _stem_norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, inputs, T, Y, X] to [B, outputs, T, Y, X]."""
        return F.relu(self.bn(self.conv(x)))


class SeparableConv(nn.Module):
    """Spatial then temporal convolution, each with batch norm and ReLU; sizes are kept."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        k, p = kernel, kernel // 2
        self.conv_s = nn.Conv3d(inputs, outputs, (1, k, k), padding=(0, p, p), bias=False)
        self.bn_s = _stem_norm(outputs)
        self.conv_t = nn.Conv3d(outputs, outputs, (k, 1, 1), padding=(p, 0, 0), bias=False)
        self.bn_t = _stem_norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, inputs, T, Y, X] to [B, outputs, T, Y, X]."""
        x = F.relu(self.bn_s(self.conv_s(x)))
        return F.relu(self.bn_t(self.conv_t(x)))


class ConvStem(nn.Module):
    """S3D stem: [B, 3, T, Y, X] -> [B, width, T, Y/4, X/4]."""

    def __init__(self, inputs: int, width: int):
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

        self.net = nn.Sequential(
            SeparableConv(inputs, 64, 5),
            pool(),
            PlainConv(64, 64),
            SeparableConv(64, width, 3),
            pool(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, inputs, T, Y, X] to [B, width, T, Y/4, X/4]."""
        return self.net(x)


class Attention(nn.Module):
    """Multi-head self-attention, [rows, N, D] -> [rows, N or `outputs`, D]; no bias on q, k, v."""

    def __init__(self, config: LevelConfig):
        super().__init__()
        self.heads, self.causal = config.heads, config.causal
        inner = config.heads * config.head_width
        self.to_qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, config.width))

    def forward(self, x: torch.Tensor, outputs: int | None = None) -> torch.Tensor:
        """Attend within each row of [rows, N, D]; only the first `outputs` positions ask."""
        rows, length, _ = x.shape
        if outputs is None:
            query, key, value = self.to_qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            inner = self.to_qkv.out_features // 3
            query = F.linear(x[:, :outputs], self.to_qkv.weight[:inner])
            query = query.view(rows, outputs, self.heads, -1).transpose(1, 2)
            both = F.linear(x, self.to_qkv.weight[inner:])
            key, value = both.view(rows, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.to_out(out.transpose(1, 2).reshape(rows, out.shape[2], -1))


class Mlp(nn.Module):
    """Linear, exact GELU, linear; the identity keeps the place of dropout in the names."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [rows, N, D] to [rows, N, D]."""
        return self.net(x)


class PreNorm(nn.Module):
    """Residual branch `x + fn(norm(x))`."""

    def __init__(self, width: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: torch.Tensor, outputs: int | None = None) -> torch.Tensor:
        """Map [rows, N, D] to [rows, N, D], or to its first `outputs` positions."""
        if outputs is None:
            return x + self.fn(self.norm(x))
        return x[:, :outputs] + self.fn(self.norm(x), outputs)


class Transformer(nn.Module):
    """Pre-norm layers and a final norm, [rows, N, D] -> [rows, N or `outputs`, D]."""

    def __init__(self, config: LevelConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(config.width, Attention(config)),
                    PreNorm(config.width, Mlp(config.width, config.mlp_width)),
                ]
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: torch.Tensor, outputs: int | None = None) -> torch.Tensor:
        """Map [rows, N, D] to [rows, N, D]; the last layer computes only the first `outputs` positions."""
        for number, (attention, mlp) in enumerate(self.layers, 1):
            x = mlp(attention(x, outputs if number == len(self.layers) else None))
        return self.norm(x)


class LevelEncoder(nn.Module):
    """Encoder of one level: [rows, N, D] -> every position's output, class token first if any.

    Trimmed, the last layer of a level with a class token computes that token alone: nobody reads the others.
    """

    def __init__(self, config: LevelConfig, members: int, trimmed: bool):
        super().__init__()
        length = members + (not config.causal)
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, length, config.width))
        if not config.causal:
            self.cls_token = nn.Parameter(0.02 * torch.randn(1, config.width))
        self.causal = config.causal
        self.outputs = 1 if trimmed and not config.causal else None
        self.transformer = Transformer(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode [rows, N, D] to [rows, N (+1), D], trimmed to [rows, 1, D]."""
        if not self.causal:
            first = self.cls_token.expand(x.shape[0], 1, -1)
            x = torch.cat([first, x], dim=1)
        return self.transformer(x + self.pos_embedding, self.outputs)


class Predictor(nn.Module):
    """MLP of one edge: hidden layers with batch norm and GELU, then a linear map without bias."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], outputs: int, batch_norm: bool):
        super().__init__()
        self.layers = nn.Sequential()
        for width in hidden:
            first = len(self.layers)
            self.layers.add_module(str(first), nn.Linear(inputs, width))
            self.layers.add_module(str(first + 1), ChannelNorm(width))
            self.layers.add_module(str(first + 2), nn.GELU())
            inputs = width
        self.layers.add_module(str(len(self.layers)), nn.Linear(inputs, outputs, bias=False))
        if batch_norm:
            self.layers.add_module("out_bn", ChannelNorm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict [..., outputs] from [..., inputs]."""
        return self.layers(x)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a forward pass gives, keyed as in the reference numbers.

    targets: states of causal levels, [B, G*N, D], in the original's order.
    aggregates: the token(s) of every level of the hierarchy, [B, D], [B, G, D] or [B, F, P, D].
    predictions: one array per edge `<level>_<u|d|s>`.
    """

    targets: dict[str, torch.Tensor]
    aggregates: dict[str, torch.Tensor]
    predictions: dict[str, torch.Tensor]


class Twin(nn.Module):
    """The original's local hierarchy: encoders, predictors, losses and one training step."""

    def __init__(self, config: TwinConfig, attached: bool = True, trimmed: bool = False):
        """Build with fresh parameters.

        Args:
          config: the sizes.
          attached: True keeps the original's targets, which leak gradient into other levels (only a
            trained patch level's tokens are stopped as targets); False stops every target.
          trimmed: leave out what nobody reads in the last layer of a level, which the original computes.
        """
        super().__init__()
        self.config, self.attached = config, attached
        widths = {"backbone": config.patch_width} | {v.name: v.width for v in config.levels}
        chain = ("backbone", *(v.name for v in config.levels))
        self.transformer_modules = nn.ModuleDict(
            {v.name: LevelEncoder(v, config.counts(v.name)[1], trimmed) for v in config.levels}
        )
        self.linear_proj = nn.ModuleDict(
            {
                low: nn.Linear(widths[low], widths[high])
                for low, high in zip(chain, chain[1:], strict=False)
                if widths[low] != widths[high]
            }
        )
        self._build_stem()
        self._build_norms(widths)
        self._build_predictors(widths)
        self.mlp_head = nn.Linear(widths[chain[-1]], config.num_classes)
        self._optimizer: torch.optim.Optimizer | None = None

    def _build_stem(self) -> None:
        config = self.config
        if config.stem == "conv":
            self.backbone = ConvStem(3, config.stem_width)
        inputs = config.stem_width * config.patch_size**2
        self.to_patch_embedding = nn.Sequential(nn.Identity(), nn.Linear(inputs, config.patch_width))

    def _build_norms(self, widths: dict[str, int]) -> None:
        self.output_norms, self.target_norms = nn.ModuleDict(), nn.ModuleDict()
        if self.config.stem_norm:
            self.output_norms["backbone"] = ChannelNorm(widths["backbone"])
        if self.config.output_batch_norm:
            for level in self.config.levels:
                self.output_norms[level.name] = ChannelNorm(level.width)
                if level.causal:
                    self.target_norms[level.name] = ChannelNorm(level.width)

    def _build_predictors(self, widths: dict[str, int]) -> None:
        config = self.config
        self.predictors, self.prediction_PEs = nn.ModuleDict(), nn.ParameterDict()
        for edge in self.edges():
            name, relation = edge.split("_")
            target = self._neighbour(name, relation)
            self.predictors[edge] = Predictor(
                widths[name],
                self._hidden(name),
                widths[target],
                config.output_batch_norm,
            )
            for suffix, shape in self._code_shapes(edge, widths[name]).items():
                self.prediction_PEs[edge + suffix] = nn.Parameter(torch.randn(1, *shape))

    def _neighbour(self, name: str, relation: str) -> str:
        step = {"u": 1, "d": -1, "s": 0}[relation]
        return self.config.hierarchy[self.config.hierarchy.index(name) + step]

    def _hidden(self, name: str) -> tuple[int, ...]:
        if name == "backbone":
            return self.config.patch_predictor_hidden
        return self.config.level(name).predictor_hidden

    def edges(self) -> list[str]:
        """List the predictions, `<level>_<u|d|s>`, in the order of the hierarchy."""
        edges = []
        for index, name in enumerate(self.config.hierarchy):
            if index < len(self.config.hierarchy) - 1:
                edges.append(f"{name}_u")
                if self.config.side and self.config.positions(name) > 1:
                    edges.append(f"{name}_s")
            if index > 0:
                edges.append(f"{name}_d")
        return edges

    def _code_shapes(self, edge: str, width: int) -> dict[str, tuple[int, int]]:
        """Shapes of the tables that tell a predictor which token is asked for."""
        name, relation = edge.split("_")
        if relation == "u":
            return {}
        if relation == "s":
            return {"": (2 * self.config.positions(name) - 1, width)}
        level = self.config.level(name)
        if level.causal:
            return {}
        groups, members = self.config.counts(name)
        if groups == 1 or self.config.side:
            return {"": (members, width)}
        member_width = width * (level.code_axes - 1) // level.code_axes
        return {"_t": (members, member_width), "_g": (groups, width - member_width)}

    def forward(self, video: torch.Tensor, tokens: dict[str, torch.Tensor]) -> Outputs:
        """Run the hierarchy and every predictor.

        Args:
          video: [B, F, Y, X, 3] floats.
          tokens: the draws of the step, `<level>_<d|s>` -> integers, scalar or [G].
        """
        targets, aggregates = self.encode(video)
        predictions = {edge: self._predict(edge, targets, aggregates, tokens) for edge in self.edges()}
        return Outputs(targets, aggregates, predictions)

    def patches(self, video: torch.Tensor) -> torch.Tensor:
        """Stem and patch embedding: [B, F, Y, X, 3] -> [B, F, P, D]."""
        config, size = self.config, self.config.patch_size
        if config.stem == "conv":
            maps = self.backbone(video.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        else:
            maps = video
        batch, frames, rows, columns, channels = maps.shape
        cells = maps.reshape(batch, frames, rows // size, size, columns // size, size, channels).permute(
            0, 1, 2, 4, 3, 5, 6
        )
        x = self.to_patch_embedding(cells.flatten(4).flatten(2, 3))
        return self.output_norms["backbone"](x) if config.stem_norm else x

    def encode(self, video: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the states of causal levels and the aggregates of the hierarchy's levels.

        What a level receives is stopped; the map that joins two widths comes after the stop.
        """
        targets, aggregates = {}, {}
        x, lower = self.patches(video), "backbone"
        if "backbone" in self.config.hierarchy:
            aggregates["backbone"], x = x, x.detach()
        for level in self.config.levels:
            if lower in self.linear_proj:
                x = self.linear_proj[lower](x)
            groups, members = self.config.counts(level.name)
            rows = x.reshape(-1, members, level.width)
            states = self.transformer_modules[level.name](rows)
            states = states.view(video.shape[0], groups, -1, level.width)
            if level.causal:
                targets[level.name] = self._targets(level, states)
            aggregates[level.name] = self._aggregate(level, states)
            x, lower = aggregates[level.name].detach(), level.name
        return targets, aggregates

    def _targets(self, level: LevelConfig, states: torch.Tensor) -> torch.Tensor:
        """[B, G, N, D] states -> [B, N*G, D]: the original lists position first, group second."""
        flat = states.transpose(1, 2).reshape(states.shape[0], -1, level.width)
        return self.target_norms[level.name](flat) if self.config.output_batch_norm else flat

    def _aggregate(self, level: LevelConfig, states: torch.Tensor) -> torch.Tensor:
        """[B, G, N, D] states -> [B, G, D], or [B, D] of a single group."""
        if level.causal:
            # The very last state predicts nothing while training, so the one before it speaks.
            x = torch.cat([states[:, :-1, -1], states[:, -1:, -2]], dim=1)
        else:
            x = states[:, :, 0]
        if self.config.output_batch_norm:
            x = self.output_norms[level.name](x)
        return x.squeeze(1) if x.shape[1] == 1 else x

    def _predict(
        self,
        edge: str,
        targets: dict[str, torch.Tensor],
        aggregates: dict[str, torch.Tensor],
        tokens: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Prediction of one edge from its source level's tokens and the code of what is asked."""
        name, relation = edge.split("_")
        if relation == "d" and self.config.level(name).causal:
            return self.predictors[edge](targets[name])
        x = aggregates[name]
        if relation == "s":
            code = self._rows(edge, relative_rows(tokens[edge]))
            x = x + (code.unsqueeze(1) if name == "backbone" else code)
        elif relation == "d":
            x = x + self._down_code(edge, tokens[edge])
        return self.predictors[edge](x)

    def _rows(self, table: str, index: torch.Tensor) -> torch.Tensor:
        rows = self.prediction_PEs[table][0].index_select(0, index.reshape(-1))
        return rows.view(*index.shape, -1)

    def _down_code(self, edge: str, index: torch.Tensor) -> torch.Tensor:
        """Code of the member asked for, or of (member, group) where any group may be asked."""
        if edge in self.prediction_PEs:
            return self._rows(edge, index)
        _, members = self.config.counts(edge.split("_")[0])
        member = self._rows(f"{edge}_t", index % members)
        group = self._rows(f"{edge}_g", index // members)
        return torch.cat([member, group], dim=-1)

    def losses(self, outputs: Outputs, tokens: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Unweighted loss of every edge, `<level>/<up|down|side>` -> scalar."""
        distance, result = DISTANCES[self.config.loss.upper()], {}
        for edge in outputs.predictions:
            name, relation = edge.split("_")
            options = dict(self.config.loss_params)
            if distance is vicreg and relation == "d":
                # The full form already spreads this target where it is the target of an `up`.
                lower = self._neighbour(name, "d")
                options["tgt_already_reg"] = lower != self.config.hierarchy[0]
            prediction, target = self._pair(edge, outputs, tokens)
            result[f"{name}/{RELATIONS[relation]}"] = distance(prediction, target, **options)
        return result

    def _pair(self, edge: str, outputs: Outputs, tokens: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions that have a target, and that target, broadcastable to them."""
        name, relation = edge.split("_")
        prediction, other = outputs.predictions[edge], self._neighbour(name, relation)
        if relation == "u":
            return self._up_pair(prediction, outputs, other)
        target = self._stopped(outputs.aggregates[other], other)
        if relation == "s":
            return prediction, target.index_select(1, tokens[edge])
        lower = target.reshape(target.shape[0], -1, target.shape[-1])
        if self.config.level(name).causal:
            return prediction[:, :-1], lower[:, 1:]
        # With side prediction the draw names a member only: all come from the first group.
        return prediction, lower.index_select(1, tokens[edge].reshape(-1)).view_as(prediction)

    def _up_pair(self, prediction: torch.Tensor, outputs: Outputs, upper: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Pair of an `up` edge: the state before, or the token of the own group."""
        level, (groups, members) = self.config.level(upper), self.config.counts(upper)
        if level.causal:
            states = self._stopped(outputs.targets[upper], upper)
            return prediction.reshape(states.shape)[:, 1:], states[:, :-1]
        target = self._stopped(outputs.aggregates[upper], upper)
        grouped = prediction.reshape(-1, groups, members, level.width)
        target = target.reshape(-1, groups, 1, level.width)
        # Only VICReg's row statistics can tell a repeated target from a broadcast one.
        return grouped, target if groups == 1 else target.expand_as(grouped)

    def _stopped(self, target: torch.Tensor, name: str) -> torch.Tensor:
        """Stop a target's gradient; the original stops the patch tokens only."""
        return target if self.attached and name != "backbone" else target.detach()

    def owner(self, name: str) -> str | None:
        """Name the group of rates a parameter belongs to, `<level>_mod` or `<level>_pred`."""
        room, _, rest = name.partition(".")
        if room == "mlp_head":
            return None
        if room in ("predictors", "prediction_PEs"):
            return rest.split("_")[0] + "_pred"
        key = "backbone" if room in ("backbone", "to_patch_embedding") else rest.split(".")[0]
        # A stem that is no trained level of its own trains with the first level.
        return (key if key in self.config.hierarchy else self.config.hierarchy[0]) + "_mod"

    def optimizer(self) -> torch.optim.Optimizer:
        """Return SGD with Nesterov momentum and one rate per group, made on first use."""
        if self._optimizer is None:
            groups: dict[str, list[nn.Parameter]] = {}
            for name, parameter in self.named_parameters():
                owner = self.owner(name)
                if owner is not None:
                    groups.setdefault(owner, []).append(parameter)
            rate, multiplier = self.config.learning_rate, self.config.predictor_multiplier
            self._optimizer = torch.optim.SGD(
                [
                    {"params": members, "lr": rate * (multiplier if "_pred" in group else 1.0)}
                    for group, members in groups.items()
                ],
                momentum=self.config.momentum,
                nesterov=True,
            )
        return self._optimizer

    def backward(self, video: torch.Tensor, tokens: dict[str, torch.Tensor]) -> tuple[Outputs, dict[str, torch.Tensor]]:
        """Forward and one backward of the summed weighted losses; gradients stay in `.grad`."""
        self.optimizer().zero_grad(set_to_none=True)
        outputs = self(video, tokens)
        losses = self.losses(outputs, tokens)
        weights = self.config.loss_weights
        total = sum(weights.get(k.replace("/", "_"), 1.0) * v for k, v in losses.items())
        total.backward()
        return outputs, losses

    def train_step(self, video: torch.Tensor, tokens: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Take one step in place and return the unweighted losses."""
        _, losses = self.backward(video, tokens)
        self.optimizer().step()
        return losses


def relative_rows(index: torch.Tensor) -> torch.Tensor:
    """Row of the distance code for position i asking for position index[i]; row 0 is never used."""
    count = index.shape[0]
    own = torch.arange(count, device=index.device)
    return count - 1 + index - own + (index < own)


def mse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared difference over all elements."""
    return (prediction - target).square().mean()


def cosine(prediction: torch.Tensor, target: torch.Tensor, mult: float) -> torch.Tensor:
    """`mult` times the mean of one minus the cosine similarity."""
    return mult * (1 - F.cosine_similarity(prediction, target, dim=-1)).mean()


def cross_entropy(
    prediction: torch.Tensor, target: torch.Tensor, pred_temp: float, tgt_temp: float, eps: float
) -> torch.Tensor:
    """Cross entropy of softened distributions, `eps` inside the logarithm."""
    wanted = F.softmax(target / tgt_temp, dim=-1)
    given = F.softmax(prediction / pred_temp, dim=-1)
    return -(wanted * (given + eps).log()).sum(-1).mean()


def vicreg(
    prediction: torch.Tensor,
    target: torch.Tensor,
    eps: float,
    sim_coeff: float,
    std_coeff: float,
    cov_coeff: float,
    tgt_already_reg: bool = False,
) -> torch.Tensor:
    """Invariance, variance and covariance terms over all rows; optionally none of the target's."""
    sides = (prediction,) if tgt_already_reg else (prediction, target)
    spread, correlation = 0.0, 0.0
    for x in sides:
        rows = x.reshape(-1, x.shape[-1])
        spread = spread + F.relu(1 - (rows.var(0) + eps).sqrt()).mean() / len(sides)
        rows = rows - rows.mean(0)
        covariance = rows.T @ rows / (rows.shape[0] - 1)
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        correlation = correlation + off / rows.shape[1]
    similarity = mse(prediction, target)
    return sim_coeff * similarity + std_coeff * spread + cov_coeff * correlation


DISTANCES = {"MSE": mse, "CS": cosine, "CE": cross_entropy, "VICREG": vicreg}


def draw_tokens(config: TwinConfig, seed: int) -> dict[str, np.ndarray]:
    """Draw the tokens of a step: uniform members for `down`, near other positions for `side`."""
    random = np.random.default_rng(seed)
    tokens: dict[str, np.ndarray] = {}
    for level in config.levels:
        groups, members = config.counts(level.name)
        choices = members if config.side else members * groups
        size = None if groups == 1 else groups
        tokens[f"{level.name}_d"] = np.asarray(random.integers(choices, size=size))
    for name in config.hierarchy[:-1] if config.side else ():
        count = config.positions(name)
        if count > 1:
            tokens[f"{name}_s"] = np.asarray(
                [_other_position(random, i, count, config.std_divisor) for i in range(count)]
            )
    return tokens


def _other_position(random: np.random.Generator, own: int, count: int, divisor: float) -> int:
    """Rounded normal around `own`, redrawn until it is another position of the sequence."""
    while True:
        drawn = round(random.normal(own, max(own, count - own) / divisor))
        if 0 <= drawn < count and drawn != own:
            return drawn
