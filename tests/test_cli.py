"The command line as a user types it: exit codes, one-line errors, files that are whole or absent"
import json, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest
from vislearn.cli.main import FAMILIES, family_parser, main
from vislearn.core import real_data
from vislearn.store import build_store

TOP = Path(__file__).parents[1]
SAMPLES = TOP/'data'/'terrain'


def run(*args, **kw): return subprocess.run([sys.executable, '-m', 'vislearn', *map(str, args)], capture_output=True, text=True, cwd=kw.pop('cwd', TOP), **kw)


def fails(capsys, *args):
    "Exit code and the one line on stderr."
    code = main([*map(str, args)]); err = capsys.readouterr().err
    assert code and err.startswith('vislearn: ') and err.count('\n') == 1 and 'Traceback' not in err, err
    return code, err


def test_module_and_script_are_the_same():
    r = run('--help')
    assert r.returncode == 0 and all(f in r.stdout for f in FAMILIES) and run('bags').returncode == 2


@pytest.mark.parametrize('family', FAMILIES)
def test_every_command_has_help_with_an_example(family, capsys):
    p = family_parser(family)
    subs = [a.choices for a in p._actions if a.choices and hasattr(a, '_parser_class')]
    for q in (subs[0].values() if subs else [p]):
        text = q.format_help()
        assert 'example:\n  vislearn ' in text, q.prog
        assert all(a.help for a in q._actions), q.prog


def test_examples_parse():
    "The examples of the help pages are real command lines."
    import importlib
    for family, (module, _) in FAMILIES.items():
        for c in importlib.import_module(module).COMMANDS[family]:
            words = c.example.split()[1:]
            assert words[0] == family
            family_parser(family).parse_args(words[1:])


def test_bag_info_json_on_samples():
    for bag, fmt in ((SAMPLES/'concrete.bag', 'ros1'), (SAMPLES/'grass', 'sqlite3'), (SAMPLES/'marble_rock', 'mcap')):
        r = run('bag', 'info', bag, '--json'); info = json.loads(r.stdout)
        assert r.returncode == 0 and fmt in info['format'] and info['topics']['/bev/single/compressed']['count'] == 12


SHARED = real_data('bags/ros2_split_mcap') and real_data('bags/ros2_split_mcap').parent


@pytest.mark.skipif(not SHARED, reason='the larger collection of recordings (shared/data/bags) is not beside this checkout')
def test_bag_info_json_on_every_shared_bag(capsys):
    bags = sorted(p for p in SHARED.iterdir() if p.suffix == '.bag' or p.is_dir())
    assert len(bags) >= 8
    want = {'husky_outdoor_imu_odom_gps': 16806, 'jackal_imu_odom_simtime': 6121, 'picam_planar_marker_board': 33, 'ros1_message_types': 9, 'ros2_message_zoo_mcap': 188, 'ros2_message_zoo_sqlite3': 188,
            'ros2_split_mcap': 6074, 'ros2_split_sqlite3': 6074}
    for b in bags:
        assert main(['bag', 'info', str(b), '--json']) == 0
        info = json.loads(capsys.readouterr().out)
        assert sum(t['count'] for t in info['topics'].values()) == want[b.stem], b.name


def test_bad_bags(capsys, tmp_path):
    whole = (SAMPLES/'concrete.bag').read_bytes()
    (tmp_path/'cut.bag').write_bytes(whole[:len(whole)//2]); (tmp_path/'empty.bag').touch(); (tmp_path/'notes.txt').write_text('no bag')
    for name, word in (('cut.bag', 'reindex'), ('empty.bag', 'empty'), ('notes.txt', ''), ('missing.bag', 'missing.bag')):
        code, err = fails(capsys, 'bag', 'info', tmp_path/name)
        assert code == 1 and word in err and name in err
    code, err = fails(capsys, 'bag', 'check', SAMPLES/'concrete.bag', '--topics', 'spot_sed')
    assert code == 2 and "did you mean 'spot_seed'" in err


def test_bag_check_says_what_is_missing(capsys):
    assert main(['bag', 'check', str(SAMPLES/'concrete.bag'), '--json']) == 0 and json.loads(capsys.readouterr().out)['ok']
    husky = real_data('bags/husky_outdoor_imu_odom_gps.bag')
    assert main(['bag', 'check', str(husky)]) == 1 and 'no images' in capsys.readouterr().out


def test_dataset_errors(capsys, tmp_path):
    spec = json.loads((SAMPLES/'train.json').read_text())
    def extract(change):
        new = json.loads(json.dumps(spec)); change(new)
        for n in ('train.json', 'holdout.json'): (tmp_path/n).write_text(json.dumps(new))
        return fails(capsys, 'terrain', 'extract', '--dataset-dir', tmp_path, '--cache', tmp_path/'cache')
    assert "did you mean 'categories'" in extract(lambda s: s.update(categoris=s.pop('categories')))[1]
    assert "did you mean 'grass'" in extract(lambda s: s['orderings'][0].update(second='gras'))[1]
    code, err = extract(lambda s: s['orderings'].append(dict(first='marble_rock', second='concrete', label=-1)))
    assert code == 2 and 'marble_rock' in err and 'concrete' in err
    assert 'no file or folder' in extract(lambda s: None)[1]        # the bags are not beside this copy
    assert not list((tmp_path/'cache').rglob('meta.json'))
    (tmp_path/'holdout.json').unlink()
    assert 'holdout.json missing' in fails(capsys, 'terrain', 'extract', '--dataset-dir', tmp_path)[1]


def test_window_outside_the_bag(capsys, tmp_path):
    spec = json.loads((SAMPLES/'train.json').read_text())
    for data in spec['categories'].values():
        for d in data: d['path'] = str(SAMPLES/d['path'])
    spec['categories']['grass'][0].update(start=1.0, end=2.0)
    for n in ('train.json', 'holdout.json'): (tmp_path/n).write_text(json.dumps(spec))
    code, err = fails(capsys, 'terrain', 'extract', '--dataset-dir', tmp_path, '--cache', tmp_path/'cache', '--workers', 1)
    assert code == 1 and 'window' in err and '1970' in err and 'grass' in err


def test_synth_refuses_a_folder_of_something_else(capsys, tmp_path):
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.txt').write_text('precious')
    code, err = fails(capsys, 'synth', 'terrain', '--preset', 'ci', '--out', tmp_path/'mine', '--textures', 'none')
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'precious' and str(tmp_path/'mine') in err
    assert 'no such folder' in fails(capsys, 'synth', 'terrain', '--out', tmp_path/'x', '--textures', tmp_path/'none here')[1]


def test_unknown_option_is_exit_code_2():
    r = run('bag', 'info', '--jsn', 'x.bag')
    assert r.returncode == 2 and 'unrecognized arguments' in r.stderr and 'Traceback' not in r.stderr


def test_cache_commands(capsys, tmp_path):
    p = build_store('patches', dict(n=1), dict(x=('uint8', (4,))), lambda w: w.append(x=np.ones((3, 4))), tmp_path)
    args = ['--cache', str(tmp_path)]
    assert main(['cache', 'verify', '--all', *args]) == 0
    shard = p/'x-00000.npy'; raw = bytearray(shard.read_bytes()); raw[-1] ^= 1; shard.write_bytes(raw)
    capsys.readouterr()
    assert main(['cache', 'verify', p.name[:6], *args]) == 1 and 'content changed' in capsys.readouterr().out
    assert main(['cache', 'rm', p.name, *args]) == 0 and not p.exists()


def test_photo_costmap(capsys, tmp_path):
    photos = real_data('husky_terrain')
    from vislearn.terrain.photos import photo_recipe, train_photos
    run_ = train_photos(photo_recipe(photos, 'colour', steps=60), tmp_path/'runs')
    args = ['terrain', 'costmap', '--photo', photos/'images'/'husky_06.jpg', '--calibration', photos/'calibration.yaml', '--model', run_.dir, '--out', tmp_path/'costmap.npy']
    assert main([*map(str, args)]) == 0
    grid, human = np.load(tmp_path/'costmap.npy'), np.load(photos/'costmaps'/'husky_06.npy')
    assert grid.shape == (20, 20) and grid.dtype == np.float64 and np.isfinite(grid[human > 0]).mean() > .99 and np.isnan(grid[human == 0]).mean() > .9
    by_id = ['--model', run_.id, '--ckpt-dir', tmp_path/'runs']
    assert main([*map(str, args[:6] + by_id + ['--out', tmp_path/'again.npy'])]) == 0 and np.array_equal(np.load(tmp_path/'again.npy'), grid, equal_nan=True)
    capsys.readouterr()
    (tmp_path/'bad.jpg').write_bytes(b'not a picture')
    for at, value, word in ((3, tmp_path/'bad.jpg', 'bad.jpg'), (5, tmp_path/'none.yaml', 'none.yaml'), (7, tmp_path/'nothing', 'nothing')):
        wrong = list(args); wrong[at] = value; wrong[-1] = tmp_path/'no.npy'
        code, err = fails(capsys, *wrong)
        assert word in err and not (tmp_path/'no.npy').exists()


@pytest.mark.slow
def test_killed_extraction_leaves_nothing_half(tmp_path):
    from vislearn.synth.terrain import make_terrain
    made = make_terrain(tmp_path/'drive', 'ci', workers=1)
    cmd = [sys.executable, '-m', 'vislearn', 'terrain', 'extract', '--dataset-dir', str(made.specs), '--cache', str(tmp_path/'cache'), '--workers', '1']
    p = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=TOP)
    deadline = time.time()+60
    while not list((tmp_path/'cache').glob('patches/.*.tmp-*')) and p.poll() is None and time.time() < deadline: time.sleep(.001)
    p.send_signal(signal.SIGKILL); p.wait()
    assert subprocess.run(cmd, cwd=TOP, capture_output=True).returncode == 0
    from vislearn.store import list_stores, verify_store
    stores = list_stores(tmp_path/'cache')
    assert len(stores) == 8 and all(s.state == 'complete' and verify_store(s.path) == [] for s in stores)


@pytest.mark.parametrize('line,words', [('objects train --cpu seed=3 --recipe space_nano train.epochs=2 --dry-run', ['seed=3', 'train.epochs=2']), ('video train --cpu seed=3 --recipe svg_nano train.epochs=2 --dry-run', ['seed=3', 'train.epochs=2']),
    ('control train seed=3 --env A train.epochs=2 --dry_run', ['seed=3', 'train.epochs=2']), ('control grid seed=3 --env A train.epochs=2 --dry_run', ['seed=3', 'train.epochs=2']), ('run --cpu terrain_rep seed=3 --dry-run train.epochs=2', ['terrain_rep', 'seed=3', 'train.epochs=2']),
    ('sweep --parallel 2 sweep.yaml --cpu seed=3', ['sweep.yaml', 'seed=3'])])
def test_words_stand_between_flags_in_every_family(line, words):
    "One parser does it for all, below a family, too."
    assert family_parser(line.split()[0]).parse_args(line.split()[1:]).words == words


def test_words_between_other_flags(capsys):
    assert family_parser('config').parse_args('check terrain_rep a=1 --json b=2 -- c 3'.split()).changes == ['a=1', 'b=2'] and family_parser('run').parse_args('x --cpu -- c 3'.split()).pairs == ['c', '3']
    assert family_parser('bag').parse_args('info a.bag --json b.bag'.split()).bag == ['a.bag', 'b.bag'] and family_parser('compare').parse_args(['a', '--json', 'b']).run_ids == ['a', 'b'] and family_parser('cache').parse_args('rm x --all y'.split()).keys == ['x', 'y']
    for line, said in (('objects train --cpu seed=3 --recpie space_nano', 'unrecognized arguments: --recpie space_nano'), ('bag info --json', 'required: bag')):
        with pytest.raises(SystemExit) as e: main(line.split())
        assert e.value.code == 2 and said in capsys.readouterr().err
    for line in ('video train --cpu seed=3 --recipe svg_nano train.epochs=2 --dry_run model.params.g_dim=7', 'objects train --cpu seed=3 --recipe space_nano train.max_steps=2 --dry_run'):
        assert main(line.split()) == 0 and '\nseed: 3\n' in (said := capsys.readouterr().out) and (': 2\n' in said)
    code, err = fails(capsys, *'video train --recipe svg_nano train.epohcs=2 --dry_run'.split()); assert code == 2 and "did you mean 'epochs'" in err
