"""Renew `s3d_torchvision.npz`: what torchvision's own S3D makes of weights that follow from their names.

    python -m venv torch_venv
    torch_venv/bin/pip install numpy torch torchvision
    torch_venv/bin/python -m tests.goldens.make_s3d_torchvision      (in the folder of the repository)

Runs in double precision. Its average pooling is for maps of 7x7; here it is set to the map's own size, which is what
ours does of itself. Dropout is off in training mode, too: its draws are torch's own.
"""

import json
import pathlib

import numpy as np
import torch
import torchvision

from tests.determined import det, summary

SHAPE = (2, 3, 32, 64, 32)  # [B, C, T, Y, X]: four times in the last map, and rows and columns that differ
CLASSES, SEED = 7, 5


def main() -> None:
    """Write the file beside this one."""
    video = torch.from_numpy(np.random.RandomState(SEED).random_sample(SHAPE))
    arrays = {"torchvision_shape": np.array(SHAPE), "versions": f"{torch.__version__} {torchvision.__version__}"}
    for mode in ("eval", "train"):
        model = torchvision.models.video.s3d(num_classes=CLASSES, dropout=0.0).double()
        model.avgpool.kernel_size = (2, SHAPE[3] // 32, SHAPE[4] // 32)
        state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("tracked")}
        filled = {name: torch.from_numpy(det(name, tuple(tensor.shape))) for name, tensor in state.items()}
        model.load_state_dict(filled, strict=False)
        model.train(mode == "train")
        with torch.no_grad():
            x = video
            for number, stage in enumerate(model.features):
                x = stage(x)
                arrays[f"{mode}/stage{number}"] = summary(x.numpy()).astype(np.float32)
                arrays[f"{mode}/stage{number}_shape"] = np.array(x.shape)
            logits = model.classifier(model.avgpool(x)).mean((2, 3, 4))
        arrays[f"{mode}/logits"] = logits.numpy().astype(np.float32)
        if mode == "train":
            for name in ("features.0.0.1", "features.15.branch3.1.1"):
                for part in ("running_mean", "running_var"):
                    arrays[f"{part}_after_train/{name}"] = model.state_dict()[f"{name}.{part}"].numpy()
    shapes = {name: list(tensor.shape) for name, tensor in state.items()}
    arrays["torchvision_shapes_json"] = json.dumps(shapes)
    np.savez_compressed(pathlib.Path(__file__).parent / "s3d_torchvision.npz", **arrays)


if __name__ == "__main__":
    main()
