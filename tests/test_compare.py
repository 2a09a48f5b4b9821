"Lists, differences, numbers, curves and pages of runs, damaged folders included."
import json, math, shutil, time
from datetime import datetime, timezone
import numpy as np, pytest
from fastcore.basics import nested_idx
from vislearn.core import UserError
from vislearn.learn import fit_run, synth_learner
from vislearn.runs.compare import _values, compare_runs, config_diff, direction, find_folder, plot_curves, run_curves, run_folders, run_names, run_numbers, run_row, run_table, show_run
from vislearn.runs.config import RunConfig, canonical, override
from vislearn.runs.record import Run, RunError
from vislearn.runs.yaml import dump_yaml, parse_yaml

@pytest.fixture(autouse=True)
def no_package_list(monkeypatch): monkeypatch.setattr('vislearn.runs.record.packages', lambda: '')   # a third of a second per run, and of no interest here

def config(root, *changes, **fields):
    cfg = RunConfig(**(dict(task='demo.line', description='a line', data=dict(root=str(root), train=dict(name='t')), model=dict(name='m'), train=dict(epochs=3, batch_size=16), log=dict(tensorboard=False, every_steps=1)) | fields))
    return override(cfg, changes)

def written(root, *changes, values=(3., 1., 2.), finish=True, **fields):
    "A run that was not trained, with these test losses."
    run = Run.create(config(root, *changes, **fields), out=root/'runs', policy='record').start()
    for epoch, value in enumerate(values): run.log(4*epoch + 4, epoch, 'train', loss=value + 1); run.log(4*epoch + 4, epoch, 'test', loss=value, accuracy=1 - value/10)
    if finish: run.finish()
    return run

def change(path, **fields): path.write_text(json.dumps(json.loads(path.read_text()) | fields))

def test_row_of_a_trained_run_agrees_with_the_run(tmp_path):
    run = Run.create(config(tmp_path), out=tmp_path/'runs', policy='record'); fit_run(synth_learner(), run); row = run_row(run.dir)
    assert (row['id'], row['task'], row['state'], row['step'], row['epoch'])==(run.id, 'demo.line', 'finished', 24, 3) and row['problem']==''
    assert row['metric']=='test_loss' and row['best']==run.ckpt.index['best']['score']==run_numbers(run.dir, run.config)['test_loss']['best']
    assert 0<=row['seconds']<30 and row['started']==run.manifest['started'] and row['reproducible'] is run.manifest['reproducible']
    assert set(run_table(tmp_path/'runs').columns)==set(row)

@pytest.mark.parametrize('values,mode,best', [((3., 1., 2.), 'min', 1.), ((3., 1., 2.), 'max', 3.), ((math.nan, 5., 7.), 'min', 5.), ((math.nan, math.inf, math.nan), 'min', None)])
def test_A13_best_value(tmp_path, values, mode, best):
    run = written(tmp_path, f'select.mode={mode}', 'select.metric=test_loss', values=values); row = run_row(run.dir)
    assert row['metric']=='test_loss' and row['best']==best
    table = compare_runs([run]); assert (None if np.isnan(table['test_loss']['best'].iloc[0]) else table['test_loss']['best'].iloc[0])==best

def test_A13_eval_beats_test_beats_train(tmp_path):
    only, both = written(tmp_path), Run.create(config(tmp_path), out=tmp_path/'runs', policy='record')
    for split, value in (('train', 1.), ('test', 2.), ('eval', 3.)): both.log(4, 0, split, loss=value)
    both.finish(); train = Run.create(config(tmp_path), out=tmp_path/'runs', policy='record'); train.log(4, 0, 'train', loss=1.); train.finish()
    assert [run_row(r.dir)['metric'] for r in (both, only, train)]==['eval_loss', 'test_loss', 'train_loss']

def test_list_is_newest_first_and_filtered(tmp_path):
    runs = [written(tmp_path, task=task) for task in ('terrain.rep', 'terrain.cost', 'terrainish')]
    for i, run in enumerate(runs): change(run.dir/'manifest.json', started=f'2026-01-0{i+1}T00:00:00Z')
    root = tmp_path/'runs'
    assert list(run_table(root).task)==['terrainish', 'terrain.cost', 'terrain.rep']
    again = [written(tmp_path, label=str(i), task='twin') for i in range(5)] # in one second, or nearly so
    for run in again: change(run.dir/'manifest.json', started='2026-02-01T00:00:00Z')
    assert list(run_table(root, task='twin').label)==list('43210')
    for run in again: shutil.rmtree(run.dir)
    assert list(run_table(root, task='terrain').task)==['terrain.cost', 'terrain.rep'] and list(run_table(root, task='terrain.rep').id)==[runs[0].id]
    assert len(run_table(root, state='finished'))==3 and len(run_table(root, state='failed'))==0
    with pytest.raises(RunError, match="did you mean 'finished'"): run_table(root, state='finishd')
    assert str(run_table(root).step.dtype)=='Int64' and len(run_table(tmp_path/'none'))==0

def test_A27_dead_after_two_minutes_of_silence(tmp_path):
    run = written(tmp_path, finish=False); path = run.dir/'status.json'
    change(path, heartbeat=time.time() - 110); assert run_row(run.dir)['state']=='running'
    change(path, heartbeat=time.time() - 130); assert run_row(run.dir)['state']==run.status['state']=='dead?'
    assert list(run_table(tmp_path/'runs', state='dead').id)==[run.id]
    run.finish()

def damage(name, text=None):
    def harm(folder):
        path = folder/name
        if text is None: path.unlink()
        elif isinstance(text, bytes): path.write_bytes(text)
        else: path.write_text(text)
    return harm

@pytest.mark.parametrize('harm,reason', [
    (damage('status.json'), 'no status.json'), (damage('manifest.json'), 'no manifest.json'), (damage('config.yaml'), 'no config.yaml'),
    (damage('status.json', ''), 'status.json'), (damage('status.json', '[1]'), 'expected an object, got list'), (damage('status.json', '{"state": "asleep"}'), "unknown state 'asleep'"),
    (damage('manifest.json', '{"run_id": "x", '), 'manifest.json'), (damage('manifest.json', b'\xff\xfe\x00'), 'manifest.json'), (damage('config.yaml', 'a: [1'), 'config.yaml: line 1'),
    (damage('config.yaml', b'\xff\xfe'), 'config.yaml'), (damage('config.yaml', '- 1\n'), 'expected keys and values'), (damage('config.yaml', 'task: t\nbatch_size: 3\n'), 'required, but not given'),
    (damage('config.yaml', 'task: a\ntask: b\n'), "given twice")])
def test_damaged_folders_stay_in_the_list_with_the_reason(tmp_path, harm, reason):
    good, bad = written(tmp_path, label='good'), written(tmp_path, label='bad'); harm(bad.dir)
    table = run_table(tmp_path/'runs'); row = table[table.folder==str(bad.dir)].iloc[0]
    assert len(table)==2 and row.state=='broken?' and reason in row.problem and '\n' not in row.problem
    assert table[table.folder==str(good.dir)].iloc[0].state=='finished'
    assert 'broken?' in show_run(bad.dir) and reason in show_run(bad.dir) # no view of it raises
    assert len(compare_runs([good, bad.dir]))==2 and len(config_diff([good, bad.dir]).columns)==2 and plot_curves([good, bad.dir]).axes

def test_odd_fields_do_no_harm(tmp_path):
    run = written(tmp_path); folder = run.dir
    change(folder/'status.json', heartbeat=None, step='7', epoch=[1]); change(folder/'manifest.json', attempts=[{'time': 'noon'}], started=None, sweep='no')
    (folder/'ckpt').mkdir(exist_ok=True); (folder/'ckpt'/'index.json').write_text('{"best": 3}'); (folder/'metrics.jsonl').write_text((folder/'metrics.jsonl').read_text() + '{"t": 1, \n7\n{"t": 2, "step"')
    row = run_row(folder); assert row['state']=='finished' and row['step'] is None and row['seconds'] is None and row['best']==1.
    assert len(run_curves(folder)['test_loss'])==3 and show_run(folder) and plot_curves([folder]).axes

def test_only_run_folders_are_listed(tmp_path):
    run = written(tmp_path); root = tmp_path/'runs'; nested = root/'sweeps'/'s1'/'stage'; shutil.copytree(run.dir, nested)
    for name, files in (('dataset', ('manifest.json', 'config.yaml')), ('notes', ('status.json',)), ('plain', ())):
        (root/name).mkdir()
        for file in files: (root/name/file).write_text('{}')
    (root/'demo.line'/'20260101-000000-abcdef').mkdir(); (root/'link').symlink_to(root) # a loop
    sweep = root/'sweeps'/'20260101-000000-sweepa'; sweep.mkdir(); (sweep/'sweep.json').write_text('{}'); (sweep/'base.yaml').write_text('') # not a run, though its name is like one
    (run.dir/'artifacts').mkdir(); shutil.copytree(nested, run.dir/'artifacts'/'inside')
    assert {str(f) for f in run_folders(root)}=={str(run.dir), str(nested), str(root/'demo.line'/'20260101-000000-abcdef')}

def test_a_folder_is_found_among_damaged_ones(tmp_path):
    good, bad = written(tmp_path), written(tmp_path); (bad.dir/'status.json').unlink(); root = tmp_path/'runs'
    assert find_folder(good.id, root)==good.dir and find_folder(bad.dir.name, root)==bad.dir and find_folder(good, root)==good.dir and find_folder(str(good.dir))==good.dir
    with pytest.raises(UserError, match='no run 2019'): find_folder('2019', root)
    (good.dir/'manifest.json').write_text('{'); (bad.dir/'status.json').write_text('{}')
    assert find_folder(bad.dir.name, root)==bad.dir
    with pytest.raises(UserError, match='no run 2019'): find_folder('2019', root)

TREES = [dict(a=1, b='two\nlines\n\nwith: colon', c=dict(d=[1, {'e': None}], f={}), g=1e-5), {'text': '# no comment', 'other key': ' x ', 'n': 'no', 'empty': ''}, {'deep': {'a': {'b': {'c': 'x: y\nz'}}}, 'list': [[1], [2]]}]
@pytest.mark.parametrize('tree', TREES)
def test_configs_read_in_pieces_equal_configs_read_at_once(tmp_path, tree):
    path = tmp_path/'config.yaml'
    for text in (dump_yaml(tree), '---\n' + dump_yaml(tree), '# a comment\n' + dump_yaml(tree), json.dumps(tree)):
        path.write_text(text); assert _values(path)==parse_yaml(text)==tree

def test_differences_agree_with_a_slow_look(tmp_path):
    runs = [written(tmp_path, *changes) for changes in (['optim.lr=1e-5'], ['train.clip_norm=0.5', '+model.params.layers=[1,2]'], ['+model.params.deep={a: {b: true}}', 'label=third'])]
    diff, dumps = config_diff(runs), [json.loads(canonical(r.config)) for r in runs]
    assert set(diff.index)=={'optim.lr', 'train.clip_norm', 'model.params', 'model.params.layers', 'model.params.deep.a.b', 'label'} and list(diff.columns)==[r.id for r in runs]
    for key in ('optim.lr', 'train.clip_norm', 'label'): assert [nested_idx(d, *key.split('.')) for d in dumps]==list(diff.loc[key])
    assert list(diff.loc['model.params.layers'])==['', [1, 2], ''] and list(diff.loc['model.params'])==[{}, '', '']
    assert not len(config_diff([runs[0], runs[0]])) and 'optim.lr' not in config_diff(runs[1:]).index

def test_numbers_and_names(tmp_path):
    runs = [written(tmp_path, label=label, values=values) for label, values in (('a', (3., 1., 2.)), ('b', (.5, .7, 4.)))]; table = compare_runs(runs)
    assert list(table.index)==['a', 'b'] and list(table['test_loss']['best'])==[1., .5] and list(table['test_loss']['epoch'])==[1, 0] and list(table['test_loss']['last'])==[2., 4.]
    assert list(table['test_accuracy']['best'])==[.9, .95] # larger is better, whatever `select` says about the loss
    rows = [run_row(r.dir) for r in runs]; assert run_names(rows + rows[:1])!=['a', 'b', 'a'] and len(set(run_names(rows + [run_row(written(tmp_path, label='a').dir)])))==3
    assert [direction(m, runs[0].config) for m in ('test_loss', 'eval_ap_avg', 'eval_something', 'eval_mean_error')]==['min', 'max', 'min', 'min']
    assert direction('test_loss', config(tmp_path, 'select.mode=max'))=='max' and direction('eval_ap', config(tmp_path, 'select.metric=eval_ap'))=='min'

def test_curves_along_epochs_and_steps(tmp_path):
    run = Run.create(config(tmp_path), out=tmp_path/'runs', policy='record')
    for step in (2, 4): run.log(step, 0, 'test', loss=float(step)) # measured inside the epoch, too
    run.log(4, 0, 'train', loss=1.); run.log(6, 1, 'test', loss=1.); run.log(8, 1, 'test', loss=3.); run.log(8, 1, 'train', loss=1.); run.finish()
    curve = run_curves(run.dir)['test_loss']
    assert list(curve.step)==[2, 4, 6, 8] and list(curve.seen)==[.5, 1, 1.5, 2] and list(curve.epoch)==[0, 0, 1, 1]
    for by, xs, star in (('epoch', [.5, 1, 1.5, 2], 1.5), ('step', [2, 4, 6, 8], 6)):
        lines = plot_curves(run, ['test_loss'], by=by).axes[0].lines
        assert list(lines[0].get_xdata())==xs and list(lines[0].get_ydata())==[2, 4, 1, 3] and [l for l in lines if l.get_marker()=='*'][0].get_xdata()[0]==star

def test_star_is_where_the_checkpoint_is(tmp_path):
    run = Run.create(config(tmp_path, 'train.epochs=6'), out=tmp_path/'runs', policy='record'); fit_run(synth_learner(lr=.6), run)
    stars = [l for l in plot_curves([run], by='step').axes[0].lines if l.get_marker()=='*']
    assert len(stars)==1 and stars[0].get_xdata()[0]==run.ckpt.index['best']['step'] and stars[0].get_ydata()[0]==run.ckpt.index['best']['score']

def test_panels_and_axes(tmp_path):
    runs = [written(tmp_path, label=f'run {i}', values=(100., 10., i + 1.)) for i in range(12)]; fig = plot_curves(runs)
    assert [ax.get_ylabel() for ax in fig.axes]==['loss', 'accuracy'] and fig.axes[0].get_yscale()=='log' and fig.axes[1].get_yscale()=='linear'
    assert len({l.get_color() for l in fig.axes[1].lines})==12 and any('and 2 more' in t.get_text() for t in fig.legends[0].get_texts())
    assert fig.get_size_inches()[0]<=6
    with pytest.raises(RunError, match="no metric 'acuracy' .did you mean 'accuracy'"): plot_curves(runs, ['acuracy'])
    fresh = Run.create(config(tmp_path), out=tmp_path/'runs', policy='record'); assert plot_curves(fresh).texts[0].get_text()=='no metrics yet'
    fresh.log(1, 0, 'train', batch_loss=2., lr=.1); fig = plot_curves(fresh); assert fig.axes[0].get_ylabel()=='batch_loss' and fig.axes[0].lines[0].get_marker()=='o'
    fresh.log(1, 0, 'rollout', success=.5); assert plot_curves(fresh).axes[0].get_ylabel()=='success'; fresh.finish()

def test_page_of_a_resumed_run(tmp_path):
    (tmp_path/'points.txt').write_text('1 2'); run = written(tmp_path, values=(3.,), finish=False, label='twice'); run.fail(KeyboardInterrupt('enough'), 'preempted')
    manifest = json.loads((run.dir/'manifest.json').read_text()); manifest['attempts'][0]['time'] = '2026-01-01T00:00:00Z'; manifest['versions']['torch'] = '1.0'; (run.dir/'manifest.json').write_text(json.dumps(manifest))
    begin = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp(); log = run.dir/'metrics.jsonl'; lines = log.read_text().splitlines()
    log.write_text(''.join(json.dumps(json.loads(line) | dict(t=begin + 40 + i)) + '\n' for i, line in enumerate(lines)))
    again = Run(run.dir).start(4); again.log(8, 1, 'test', loss=1.); again.finish(); page = show_run(run.dir)
    for words in (f'{run.id}  demo.line  finished', 'a line', 'twice', '0  2026-01-01T00:00:00Z', 'from the start', 'on from step 4', 'torch 1.0 ->', 'test_loss *', 'metrics.jsonl', 'config.yaml', 'DONE', 'fingerprint', 'seed 0'): assert words in page, words
    assert 41<=run_row(run.dir)['seconds']<70 # the first attempt to its last record and the second one, not the months between them

def test_a_thousand_runs_are_listed_quickly(tmp_path):
    first = written(tmp_path).dir; files = {n: (first/n).read_text() for n in ('manifest.json', 'status.json', 'config.yaml', 'metrics.csv', 'metrics.jsonl')}
    for i in range(1000):
        folder = tmp_path/'many'/'demo.line'/f'{i:04}'; folder.mkdir(parents=True)
        for name, text in files.items(): (folder/name).write_text(text.replace('seed: 0', f'seed: {i}').replace(first.name, f'{i:04}'))
    begin = time.perf_counter(); table = run_table(tmp_path/'many'); seconds = time.perf_counter() - begin
    assert len(table)==table.id.nunique()==1000 and (table.best==1.).all() and (table.state=='finished').all()
    print(f'{seconds:.2f} s'); assert seconds<5 # about 0.5 s on a quiet machine; parsing every config whole takes 3 s more
