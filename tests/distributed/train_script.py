"""A script as users write it, small: ``python train_script.py DATA OUTPUT_DIR [NPROC]``, or under torchrun."""

from __future__ import annotations

import sys

import ignite.distributed as idist
import torch

from ignite_imgtools import data, engines, handlers, metrics, models
from ignite_imgtools.distributed import seed_all


def main(local_rank: int, folder: str, output_dir: str) -> None:
    torch.set_num_threads(1)
    seed_all(0)
    train_set, val_set = data.open_detection_data(folder)
    train_loader = data.create_loader(train_set, batch_size=4, shuffle=True, group_by="aspect", seed=0)
    val_loader = data.create_loader(val_set, batch_size=4)

    detector = models.faster_rcnn(
        len(data.class_names(val_set)),
        backbone="resnet18",
        min_size=64,
        max_size=96,
        anchor_sizes=(8, 16, 32, 64, 128),
        fpn_channels=32,
        representation=32,
        proposals=(50, 30),
        box_batch_size_per_image=32,
    )
    model = idist.auto_model(detector)
    optimizer = idist.auto_optim(torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9))
    trainer = engines.create_detection_trainer(model, engines.GradientUpdate(optimizer, clip_norm=10.0))
    coco = metrics.CocoMetric(data.coco_index(val_set), iou_types=("bbox",))
    evaluator = engines.create_detection_evaluator(model, {"coco": coco})

    handlers.MetricLogger(output_dir).attach(trainer, every=2)
    handlers.evaluate_on_epoch(trainer, evaluator, val_loader)
    to_save = {"model": model, "optimizer": optimizer}
    handlers.attach_checkpoints(trainer, evaluator, to_save, output_dir, best="bbox/AP", resume="auto")
    trainer.run(train_loader, max_epochs=2)


if __name__ == "__main__":
    folder, output_dir, *nproc = sys.argv[1:]
    with idist.Parallel(backend="gloo", nproc_per_node=int(nproc[0]) if nproc else None) as parallel:
        parallel.run(main, folder, output_dir)
