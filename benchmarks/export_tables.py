"""The tables of docs/export.md, from the files that export.py and exported_metrics.py write."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / 'docs' / 'export.md', ROOT / 'benchmarks' / 'results' / 'export'
TITLES = dict(
    classifier='classifier', eomt='EoMT panoptic', upernet='UperNet', mask_rcnn='Mask R-CNN'
)
RUNTIMES = dict(pytorch='PyTorch', onnx='onnxruntime', openvino='OpenVINO')


def in_words(measured: dict, key: str = 'ratio') -> str:
    """A ratio with its quartiles."""
    if key not in measured:
        return 'not measured'
    low, high = measured[key]['quartiles']
    return f'{measured[key]["median"]:.2f} ({low:.2f} to {high:.2f})'


def cost_table(results: dict) -> list[str]:
    """Nodes, differences and latency of each KAT and its ViT twin."""
    head = ['KAT-S / ViT-S', 'nodes', 'MB', 'difference', 'runtime', 'KAT ms', 'ViT ms']
    rows = [[*head, 'KAT over ViT', 'floor over ViT', 'machine']]
    for name in (name for name in TITLES if name in results):
        result = results[name]
        kat, vit = result['kat'], result['vit']
        pair = [
            f'{TITLES[name]}, {result["size"]}',
            f'{kat["onnx"]["nodes"]} / {vit["onnx"]["nodes"]}',
            f'{kat["onnx"]["megabytes"]:.1f} / {vit["onnx"]["megabytes"]:.1f}',
        ]
        own = result['machine']
        machine = f'{own["device"]}, {result["threads"]} threads, {own["date"]}'
        for runtime, measured in result['latency'].items():
            files = [kind.get(runtime, {}).get('differences', {}) for kind in (kat, vit)]
            apart = ' / '.join(f'{max(of.values()):.1e}' for of in files if of)
            times = [f'{measured[f"{kind}_ms"]["median"]:.0f}' for kind in ('kat', 'vit')]
            ratios = [in_words(measured, key) for key in ('ratio', 'floor_ratio')]
            rows.append([*pair, apart, RUNTIMES[runtime], *times, *ratios, machine])
            pair, machine = [''] * 3, ''
    return rows


def metrics_table(results: dict) -> list[str]:
    """Metrics of checkpoints and of their files."""
    rows = [['model', 'metric', 'checkpoint', 'onnxruntime', 'OpenVINO']]
    for name in (name for name in TITLES if name in results):
        found, title = results[name]['metrics'], TITLES[name]
        for metric, value in found['checkpoint'].items():
            cells = [found.get(format, {}).get(metric) for format in ('onnx', 'openvino')]
            numbers = ['not measured' if v is None else f'{v:.2f}' for v in (value, *cells)]
            rows.append([title, metric.rpartition('/')[2], *numbers])
            title = ''
    return rows


def write_tables(page: Path, folder: Path) -> None:
    """Replace what stands between the marks of each table in a page."""
    text = page.read_text()
    for name, table in (('results', cost_table), ('metrics', metrics_table)):
        file = folder / f'{name}.json'
        if not file.is_file():
            continue
        rows = table(json.loads(file.read_text()))
        rows.insert(1, ['---'] * len(rows[0]))
        lines = '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)
        begin, end = f'<!-- {name}.json -->\n', f'<!-- end of {name}.json -->'
        before, _, rest = text.partition(begin)
        text = before + begin + '\n' + lines + '\n\n' + end + rest.partition(end)[2]
    page.write_text(text)
