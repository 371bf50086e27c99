"""RandAugment, mixup and cutmix follow from the random numbers that they are given, and from nothing else."""

import pytest
import torch

from supernet.data import Images
from supernet.training.augmentation import Augmentation, random_numbers
from supernet.training.batches import Batches
from supernet.training.schedule import Phase, Schedule

PIXELS = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6)


def draws(seed: int = 0) -> torch.Tensor:
    return random_numbers(6, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_changed_by_its_own_random_number_alone(channels: int) -> None:
    pixels, augmentation = PIXELS[:, :channels], Augmentation(rand_augment=15)
    before = torch.get_rng_state()
    changed = augmentation.operate(pixels, draws())
    assert torch.equal(torch.get_rng_state(), before)
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, augmentation.operate(pixels, draws()))
    assert not torch.equal(changed, augmentation.operate(pixels, draws(1)))
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    assert torch.equal(augmentation.operate(pixels[order], draws()[order]), changed[order])
    assert Augmentation().operate(pixels, draws()) is pixels


def test_workers_operate_on_images_in_memory_as_the_training_process_does() -> None:
    schedule = Schedule((Phase("all", 1, 0.1),), 2, augmentation=Augmentation(rand_augment=9))
    loader = Batches(Images(PIXELS, LABELS), schedule, 0)
    ahead, here = (list(loader.steps(0, 3, workers, False)) for workers in (1, 0))
    for batch, expected in zip(ahead, here, strict=True):
        assert torch.equal(batch.pixels, expected.pixels)
        assert not torch.equal(batch.pixels, PIXELS[batch.labels])


def test_mixup_adds_shares_of_two_images_and_of_their_labels() -> None:
    images = PIXELS.float()
    mixed, shares = Augmentation(mixup=1.0).mix(images, LABELS, 6, seed=3)
    assert torch.allclose(shares.sum(1), torch.ones(6))
    assert torch.allclose(mixed, torch.einsum("nc,cijk->nijk", shares, images), atol=1e-3)
    assert 0 < float(shares[0].max()) < 1
    again, _ = Augmentation(mixup=1.0).mix(images, LABELS, 6, seed=3)
    other, _ = Augmentation(mixup=1.0).mix(images, LABELS, 6, seed=4)
    assert torch.equal(mixed, again)
    assert not torch.equal(mixed, other)


def test_cutmix_puts_a_box_of_one_image_into_another_and_its_share_into_the_labels() -> None:
    images = LABELS.float().view(6, 1, 1, 1).expand(6, 1, 16, 16).contiguous()
    mixed, shares = Augmentation(cutmix=1.0).mix(images, LABELS, 6, seed=1)
    for number in range(6):
        values, counts = mixed[number].unique(return_counts=True)
        assert len(values) == 2
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            assert float(shares[number, int(value)]) == pytest.approx(count / 256)


def test_a_step_draws_mixup_or_cutmix_and_without_them_labels_stay_labels() -> None:
    images, before = PIXELS.float(), torch.get_rng_state()
    both = Augmentation(mixup=1.0, cutmix=1.0)
    boxes = 0
    for seed in range(20):
        mixed, _ = both.mix(images, LABELS, 6, seed)
        boxes += int(torch.isin(mixed, images).all())
    assert 0 < boxes < 20
    assert torch.equal(torch.get_rng_state(), before)
    assert Augmentation().mix(images, LABELS, 6, 0)[1] is LABELS


@pytest.mark.parametrize("wrong", [{"rand_augment": 31}, {"mixup": -1.0}, {"cutmix": float("nan")}])
def test_values_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"augmentation\.{next(iter(wrong))} is"):
        Augmentation(**wrong)  # type: ignore[arg-type]
