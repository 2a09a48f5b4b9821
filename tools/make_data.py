"Make the small committed samples under data/ and the table of their hashes in data/README.md"
import argparse, hashlib, json, shutil, sys
from pathlib import Path
from vislearn.clips import Clips
from vislearn.synth.fabric import cloth_films, episode_seeds, save_fabric
from vislearn.synth.messages import bag_name
from vislearn.synth.record import BagPlan, Preset, preset_bev, simulate, write_bag
from vislearn.synth.terrain import orderings, save_truth
from vislearn.synth.textures import build_atlas

SEED = 0
TERRAINS = ('concrete', 'grass', 'marble_rock')
SIZES = Preset(TERRAINS, width=160, ppm=18.75, horizon_m=4., patch_px=8, image_hz=5., n_mixed=0, world_m=16., imu_hz=25., stand_s=(.2, .2))
BAGS = (('concrete', 'ros1', 'flat'), ('grass', 'sqlite3', 'plain'), ('marble_rock', 'mcap', 'flat')) # one of each format
SECONDS, MARK = 2.4, '<!-- made by tools/make_data.py -->'

def make_terrain_samples(out:Path):
    "One short bag per format, its truth, and a specification that names all three"
    atlas, categories = build_atlas(TERRAINS, SEED), {}
    out.mkdir(parents=True)
    for k, (name, fmt, layout) in enumerate(BAGS):
        drive = simulate(BagPlan(name, k, TERRAINS.index(name), SECONDS, SIZES.image_hz, False), SIZES, SEED)
        path = out/bag_name(name, fmt); states = write_bag(path, drive, atlas, fmt, layout, clean=True)
        if name=='concrete': save_truth(out/f'{name}.npz', drive, states, dict(clean=True))
        start = drive.start_ns//10**9; categories[name] = [dict(path=path.name, start=start + .2, end=start + SECONDS - .2)]
    spec = dict(_comment='made by tools/make_data.py', version=2, topic_map='spot_seed', bev=preset_bev(SIZES).model_dump(mode='json'), categories=categories, orderings=orderings(TERRAINS))
    (out/'train.json').write_text(json.dumps(spec, indent=1) + '\n')

def make_cloth_samples(out:Path):
    "Films of a cloth under random actions, in the layout of the SVG fork"
    out.mkdir(parents=True); save_fabric(Clips.of(cloth_films(episode_seeds(SEED, 32))), out/'cloth_32.npz')

GENERATORS = {'cloth': make_cloth_samples, 'terrain': make_terrain_samples} # folder below data/: function that makes it

def sha256(path:Path)->str: return hashlib.sha256(path.read_bytes()).hexdigest()

def make(data:Path, only:list[str]):
    "Remake the folders and the table"
    for name in only:
        shutil.rmtree(data/name, ignore_errors=True); GENERATORS[name](data/name)
    rows = [f'| `{p.relative_to(data)}` | `{GENERATORS[n].__name__}` | {SEED} | {p.stat().st_size} | `{sha256(p)}` |' for n in GENERATORS for p in sorted((data/n).rglob('*')) if p.is_file()]
    (data/'README.md').write_text('\n'.join([MARK, '# Small synthetic samples', '', 'Everything here but `real/` is simulated. Remake it with `python tools/make_data.py`; a test compares the result with these files.',
        'The three bags show the same robot on three terrains, 2.4 s each, as ROS 1, SQLite and MCAP, without faults; `terrain/train.json` is a dataset specification that names them. `real/` has its own README.',
        '`cloth/cloth_32.npz` holds 32 films of a simulated cloth, 10 random actions each, as `synth.fabric.cloth_films` makes them: `images` (32, 11, 56, 56, 4) uint8 in red, green, blue and depth, `actions` (32, 10, 4) float32, and what happened in each. `synth.fabric.load_fabric` reads it.', '',
        '| file | generator | seed | bytes | sha256 |', '| --- | --- | --- | --- | --- |', *rows, '']))

if __name__=='__main__':
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--out', default=Path(__file__).resolve().parents[1]/'data', type=Path, help='folder to write to (default: data/)')
    ap.add_argument('names', nargs='*', default=list(GENERATORS), help=f'which samples: {", ".join(GENERATORS)}')
    a = ap.parse_args()
    if bad := set(a.names) - set(GENERATORS): sys.exit(f'unknown samples {", ".join(sorted(bad))}: choose from {", ".join(GENERATORS)}')
    a.out.mkdir(parents=True, exist_ok=True); make(a.out, a.names)
    print((a.out/'README.md').read_text())
