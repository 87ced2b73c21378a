"""Every number that the README measured is one of the result that it links."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Lines run on; links keep their text.
README = re.sub(r'\s+', ' ', (ROOT / 'README.md').read_text())


def results(name: str) -> dict:
    return json.loads((ROOT / f'benchmarks/results/{name}/results.json').read_text())


@pytest.mark.parametrize('size, batch', [('T', 512), ('S', 256), ('B', 128)])
def test_speed_over_timm_is_that_of_its_file(size, batch):
    ratios = []
    for task in ('train', 'infer'):
        (entry,) = (
            entry
            for entry in results('model')['entries']
            if (entry['size'], entry['batch'], entry['mode'], entry['task'])
            == (size, batch, 'eager', task)
        )
        speed = entry['images_per_second']
        ratios.append(speed['KAT'] / speed['timm'])
    row = f'| KAT-{size}, batch {batch} | {ratios[0]:.2f} | {ratios[1]:.2f} |'
    assert row in README


def test_trainings_from_scratch_have_the_numbers_of_their_files():
    camvid, bccd = results('camvid'), results('bccd')
    runs = results('cifar10')['runs']
    kat, vit = (mean(run['top1'] for run in runs[name].values()) for name in ('kat', 'vit'))
    for name, numbers in dict(
        camvid=f'{camvid["KAT-T"]["mIoU"]} and {camvid["ViT-T"]["mIoU"]} mIoU',
        cifar10=f'{kat:.2f} and {vit:.2f} %',
        bccd=f'{bccd["KAT-T"]["bbox_mAP"]} and {bccd["ViT-T"]["bbox_mAP"]} AP',
    ).items():
        place = re.search(
            rf'{re.escape(numbers)} on \[[\w-]+\]\(benchmarks/results/{name}/', README
        )
        assert place, f'{numbers} is not what the README says of {name}'


def test_the_first_result_has_the_numbers_of_its_file():
    first = results('first_result')
    env, demo = (round(first[step]['wall_s']) for step in ('env', 'demo'))
    assert f'mIoU over 12 classes of {first["demo"]["mIoU"]} %' in README
    assert f'{env} seconds for the environment, {demo} for the demo' in README


def test_no_other_number_with_a_fraction_stands_there():
    text = re.sub(r'```.*?```|\]\([^)]*\)|Python 3\.\d+|Apache 2\.0|3\.12', '', README)
    found = re.findall(r'\d+\.\d+', text)
    assert len(found) == 6 + 6 + 1, found
