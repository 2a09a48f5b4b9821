"""Measure terrain costs of photographs left out of training: writes benchmarks/photos.json (about ten minutes on two cores)."""
import argparse, json, platform, time
import numpy as np, torch
from vislearn.core import real_data
from vislearn.runs.machine import hardware, versions
from vislearn.terrain.photo_data import read_photos
from vislearn.terrain.photo_report import leave_one_out, lopo_table, stress_table
from vislearn.terrain.photos import VARIANTS

DEFAULT = VARIANTS['default']
STRESS = {**VARIANTS, 'default, not flattened': DEFAULT.replace(flat=False), 'default without scenes': DEFAULT.replace(scenes=0), 'default without lights': DEFAULT.replace(lights=0),
    'networks only': DEFAULT.replace(features=('fire6', 'block10')), 'statistics only': DEFAULT.replace(features=('stats',)), 'colour + scenes, lights': DEFAULT.replace(features=('colour',))}

if __name__=='__main__':
    ap = argparse.ArgumentParser(description=__doc__); ap.add_argument('--out', default='benchmarks/photos.json'); ap.add_argument('--seeds', type=int, default=2)
    args = ap.parse_args(); torch.set_num_threads(1); start = time.time()
    photos = read_photos(real_data('husky_terrain'))
    maps, _ = leave_one_out(photos, DEFAULT)
    result = dict(command='python tools/bench_photos.py', hardware=hardware(), versions=versions(), python=platform.python_version(), seeds=args.seeds, lopo=lopo_table(photos))
    result['stress'] = {}
    for name, params in STRESS.items():
        each = [stress_table(photos, params, seed) for seed in range(args.seeds)]
        result['stress'][name] = {k: round(float(np.mean([e[k] for e in each])), 3) for k in each[0]} | dict(mean=round(float(np.mean([v for e in each for k, v in e.items() if not k.startswith('scenes')])), 3))
        print(f'{name:26s}', *(f'{v:.2f}' for v in result['stress'][name].values()), f'{time.time()-start:.0f} s', flush=True)
    result['default_maps'] = [[[None if np.isnan(v) else round(float(v), 3) for v in r] for r in m] for m in maps]
    for r in result['lopo']: print(r)
    with open(args.out, 'w') as f: json.dump(result, f, indent=None)
