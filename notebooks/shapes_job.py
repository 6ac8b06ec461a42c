import ignite.distributed as idist
import torch

from ignite_imgtools import data, distributed, engines, handlers, losses, metrics, models


def train(local_rank, folder, output_dir, stop_at=None):
    torch.set_num_threads(1)
    distributed.seed_all(0)
    transforms = data.transforms.segmentation_train(base_size=(48, 80), crop_size=48)  # random, and yet repeated exactly
    train_set, val_set = data.open_segmentation_data(folder, train_transforms=transforms)
    train_loader = data.create_loader(train_set, 8, shuffle=True, collate_fn=data.collate_dense)
    val_loader = data.create_loader(val_set, 8, collate_fn=data.collate_dense_lists)

    names = data.class_names(val_set)
    model = distributed.create_parallel_model(models.unet(len(names), base_channels=8), "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    trainer = engines.create_segmentation_trainer(model, engines.GradientUpdate(optimizer), losses.SegmentationLoss())
    evaluator = engines.create_segmentation_evaluator(
        model, {"pixels": metrics.SegmentationMetric(len(names), class_names=names)}
    )
    handlers.MetricLogger(output_dir, console=False).attach(trainer, every=4)
    handlers.evaluate_on_epoch(trainer, evaluator, val_loader)
    to_save = {"model": model, "optimizer": optimizer}
    handlers.attach_checkpoints(trainer, evaluator, to_save, output_dir, every=3, resume="auto")
    trainer.run(train_loader, max_epochs=3 if stop_at is None else None, max_iters=stop_at)

    started = trainer.state.iteration, idist.get_world_size()
    if idist.get_rank() == 0:
        print(f"ended at iteration {started[0]}, on {started[1]} processes")
