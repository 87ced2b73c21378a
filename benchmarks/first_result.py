"""How long a new user waits: `make env` and `make demo` in a fresh clone, with empty caches.

    python benchmarks/first_result.py

Writes benchmarks/results/first_result/results.json, and the demo's picture to docs/images. Wall
times say what a user waits on an idle machine alone; on a busy one the seconds of the processors
and the load tell more.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / 'results/first_result/results.json'
PICTURE = ROOT / 'docs/images/demo.png'


def timed(target: str, clone: Path, environment: dict[str, str]) -> tuple[dict, str]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    load = [os.getloadavg()[0]]
    result = subprocess.run(
        ['make', target], cwd=clone, env=environment, capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(result.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    load.append(os.getloadavg()[0])
    times = dict(
        wall_s=round(time.time() - start, 1),
        cpu_s=round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        load_before_and_after=load,
    )
    return times, result.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / 'clone'
        subprocess.run(['git', 'clone', '--quiet', ROOT, clone], check=True)
        caches = dict(XDG_CACHE_HOME=f'{folder}/cache', UV_CACHE_DIR=f'{folder}/cache/uv')
        environment = {**os.environ, **caches, 'PIP_NO_CACHE_DIR': '1'}
        results = dict(cores=os.cpu_count(), env=timed('env', clone, environment)[0])
        results['demo'], printed = timed('demo', clone, environment)
        (miou,) = re.findall(r'mIoU on 16 unseen images: ([\d.]+) %', printed)
        results['demo']['mIoU'] = float(miou)
        shutil.copy(clone / 'work_dirs/demo/demo.png', PICTURE)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + '\n')
    print(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
