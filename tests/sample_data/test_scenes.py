import numpy as np
import pytest

from kat_mm.sample_data.kinds import KINDS
from kat_mm.sample_data.layouts import imagenet_subjects
from kat_mm.sample_data.scenes import draw_scene
from kat_mm.sample_data.settings import SETTINGS


@pytest.mark.parametrize('setting', SETTINGS)
def test_every_pixel_of_a_scene_belongs_to_a_segment(setting):
    scene = draw_scene(np.random.default_rng(0), 90, 60, setting)
    assert scene.image.shape == (60, 90, 3) and scene.image.dtype == np.uint8
    assert scene.segment_ids.shape == (60, 90)
    assert scene.segment_ids.max() < len(scene.segments)
    assert set(scene.segments) <= set(KINDS)
    assert scene.image.std() > 20


@pytest.mark.parametrize('subject', imagenet_subjects())
def test_subject_shows_and_is_the_only_class_of_imagenet(subject):
    for seed in range(3):
        setting = KINDS[subject].settings[0]
        scene = draw_scene(np.random.default_rng(seed), 128, 96, setting, subject)
        assert [s for s in scene.segments if KINDS[s].synset] == [subject]
        assert (scene.segment_ids == scene.segments.index(subject)).mean() > 0.02


def test_empty_scene_has_no_instances():
    for seed, setting in enumerate(SETTINGS):
        scene = draw_scene(np.random.default_rng(seed), 90, 60, setting, empty=True)
        assert scene.instances() == []
