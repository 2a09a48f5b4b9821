"Evaluation of a set of clips: columns as users know them, equality with its parts, resumed tables, seeds, files"
import math, time
from typing import NamedTuple
import numpy as np, pandas as pd, pytest, torch
from vislearn.core import DataError, UserError
from vislearn.objects import evaluate as oe
from vislearn.objects.boxes import Things, box_to_zwhere
from vislearn.objects.clips import ObjectClips
from vislearn.objects.metrics import Found, detection_metrics
from vislearn.objects.probes import FewShotProbe, cluster_probe, encodings, few_shot, label_found
from vislearn.objects.track import bayes_accuracy
from vislearn.synth.sprites import SpriteWorld

class Answer(NamedTuple):
    z_where:np.ndarray; z_pres_prob:np.ndarray; z_what:np.ndarray; y:object=None

def make_clips(n=40, seed=0, **info):
    world = SpriteWorld(size=32, n=(1, 3), side=(4, 6), speed=2., seed=seed); frames = world.batch(range(n)); truth = Things(*world.truth(range(n)))
    rng = np.random.default_rng(seed); truth = truth._replace(hud=rng.random(truth.n)<.2, moving=rng.random(truth.n)<.7)
    return ObjectClips(frames, np.zeros((n, 4, 128), np.uint8), truth, Things.empty(), world.background, dict(dict(classes=world.classes, source='sprites'), **info))

class Oracle:
    "Answers with the truth, bit by bit; the frames say which it is."
    def __init__(self, clips, G=8, dim=8, noise=.5, y=False): self.clips, self.G, self.dim, self.noise, self.y, self.at, self.seen = clips, G, dim, noise, y, 0, []
    def __call__(self, frames):
        n, G = len(frames), self.G; self.seen.append(frames); assert frames.dtype==torch.uint8 and frames.shape[1:]==(3, 32, 32)
        rng = np.random.default_rng(self.at); t = self.clips.things.select(np.arange(self.at, self.at + n)); self.at += n
        where, pres, what = np.full((n, G*G, 4), .1), (rng.random((n, G*G, 1))<.01)*.7, rng.normal(size=(n, G*G, self.dim)); z = box_to_zwhere(t.xyxy); cell = np.clip((z[:, [3, 2]] + 1)/2*G, 0, G-1).astype(int) @ [G, 1]
        where[t.frame, cell], pres[t.frame, cell, 0], what[t.frame, cell] = z, .9, np.eye(self.dim)[t.label]*3 + self.noise*rng.normal(size=(t.n, self.dim))
        return Answer(where, pres, what, torch.full(frames.shape, .5) if self.y else None)

def blind(frames): return Answer(*(np.zeros((len(frames), 4, d)) for d in (4, 1, 2)))

def test_O12_columns_are_the_historical_ones():
    names = 'global_step'
    for c in ('all', 'moving', 'relevant'): names += ''.join(f';{c}_few_shot_accuracy_with_{n}' for n in (1, 4, 16, 64)) + f';{c}_few_shot_accuracy_cluster_nn;{c}_adjusted_mutual_info_score;{c}_adjusted_rand_score'
    names += ';relevant_bayes_accuracy;mse'
    for c in ('all', 'moving', 'relevant'): names += ''.join(f';{c}_ap_0.{k}0' for k in range(1, 10)) + ''.join(f';{c}_{k}' for k in ('accuracy', 'perfect', 'overcount', 'undercount', 'error_rate', 'precision', 'recall'))
    assert ';'.join(oe.COLUMNS)==names and len(oe.COLUMNS)==72

@pytest.mark.parametrize('batch', [1, 13, 64, 1000])
def test_encoding_sees_every_frame_once_in_order(batch):
    clips = make_clips(10); oracle = Oracle(clips, y=True); e = oe.encode_clips(oracle, clips, batch=batch)
    assert (torch.cat(oracle.seen).numpy()==clips.frames.reshape(40, 32, 32, 3).transpose(0, 3, 1, 2)).all() and e.n_frames==40
    assert e.mse==pytest.approx(((clips.frames/255. - .5)**2).sum()/40, rel=1e-5) and (np.diff(e.found.frame)>=0).all()
    t = clips.things; cells = {(f, b.tobytes()) for f, b in zip(e.found.frame, e.found.xyxy.round(3))}; assert sum((f, b.tobytes()) in cells for f, b in zip(t.frame, t.xyxy.round(3)))>.95*t.n
    assert math.isnan(oe.encode_clips(Oracle(clips), clips).mse) and oe.encode_clips(Oracle(clips), clips, most=3).n_frames==12 and len(oe.encode_clips(Oracle(clips), clips, thresh=.8).found.frame)<len(e.found.frame)

def test_result_equals_its_parts():
    clips = make_clips(); r = oe.evaluate_space(Oracle(clips), clips); found, things, row = r.found, clips.things, r.flat(7); assert row['global_step']==7 and tuple(row)[:72]==oe.COLUMNS and math.isnan(row['mse'])
    for s, gt in dict(all=things, moving=things.where(things.moving), relevant=things.where(~things.hud)).items():
        for k, v in detection_metrics(found, gt, 160).items(): assert row[f'{s}_{k}']==pytest.approx(v), (s, k)
        label = label_found(found, gt); keep = label>0 if s=='relevant' else label>=0; c = cluster_probe(found.code[keep], label[keep])
        assert [row[f'{s}_few_shot_accuracy_with_{n}'] for n in (1, 4, 16, 64)]==list(few_shot(found.code[keep], label[keep]).values()) and (row[f'{s}_few_shot_accuracy_cluster_nn'], row[f'{s}_adjusted_mutual_info_score'], row[f'{s}_adjusted_rand_score'])==(c['cluster_nn'], c['ami'], c['ari'])
    assert row['relevant_bayes_accuracy']==bayes_accuracy(found, things, 4) and row['relevant_recall']>.9 and row['relevant_few_shot_accuracy_with_64']>.9
    assert set(r.by_class)==set(clips.classes[1:]) and list(r.table().index)==['all', 'moving', 'relevant'] and r.curve.recall[-1]==pytest.approx(row['relevant_recall'])

def test_the_filter_of_a_game_is_used_for_relevant_only():
    clips = make_clips(); pong = make_clips(game='Pong'); a, b, c = oe.evaluate_space(Oracle(clips), clips, probes=False), oe.evaluate_space(Oracle(pong), pong, probes=False), oe.evaluate_space(Oracle(clips), clips, game='Pong', probes=False)
    assert b.scores==c.scores and a.scores['all']==b.scores['all'] and a.scores['relevant']['recall']>b.scores['relevant']['recall']            # nothing above row 21 of 128 is found

def test_steps_are_replaced_and_sorted(tmp_path):
    clips = make_clips(); r, empty = oe.evaluate_space(Oracle(clips), clips, probes=False), oe.evaluate_space(blind, clips); path = tmp_path/'new'/'metrics.csv'
    for step, x in ((200, r), (400, r), (100, r), (400, empty)): oe.append_csv(path, step, x)
    t = oe.read_csv(path); assert t.global_step.tolist()==[100, 200, 400] and t.all_recall.tolist()==[pytest.approx(r.scores['all']['recall'])]*2 + [0] and tuple(t.columns)==oe.COLUMNS
    assert path.read_text().count('\n')==4 and sorted(p.name for p in path.parent.iterdir())==['metrics.csv']

def test_saved_classifiers(tmp_path):
    clips = make_clips(80); r = oe.evaluate_space(Oracle(clips), clips); r.save(tmp_path, 5, 'pong_seed0'); code, label, _ = encodings(r.found, clips.things)
    for file in (*(f'z_what-classifier_{n}.joblib.pkl' for n in (1, 4, 16, 64)), 'classifiers/pong_seed0_z_what_classifier.joblib.pkl'): p = FewShotProbe.load(tmp_path/file); assert p.names==clips.classes and (p.predict(code)==label).mean()>.8
    assert (FewShotProbe.load(tmp_path/'classifiers/pong_seed0_z_what_classifier.json').coef==r.probes[64].coef).all()

def test_tables_over_seeds(tmp_path):
    rng = np.random.default_rng(0); values = rng.random((2, 3, 4)); runs = {}
    for i, name in enumerate(('a_b', 'c')):
        for j in range(3):
            rows = pd.DataFrame(dict(global_step=range(4), relevant_precision=values[i, j], relevant_recall=.5, all_error_rate=1 - values[i, j], relevant_adjusted_rand_score=values[i, j])); rows.to_csv(tmp_path/f'{name}{j}.csv', sep=';', index=False); runs.setdefault(name, []).append(tmp_path/f'{name}{j}.csv')
    t = oe.seed_table(runs, ['relevant_precision', 'relevant_fscore', 'all_error_rate']); last = values[:, :, -1]
    assert np.allclose(t.mean.relevant_precision, last.mean(1)) and np.allclose(t.std.relevant_precision, last.std(1, ddof=1)) and np.allclose(t.mean.relevant_fscore, (last/(last + .5)).mean(1), atol=1e-7)
    b = oe.seed_table(runs, ['relevant_precision'], best='rand_score_relevant'); assert np.allclose(b.mean.relevant_precision, values.max(-1).mean(1))
    lead = int(last.mean(1).argmax()); lines = t.markdown().splitlines(); assert len(lines)==4 and lines[2 + lead].count('**')==6 and lines[3 - lead].count('**')==0 and lines[2].startswith('| a_b |') and lines[2].endswith('| 3 |')
    tex = t.latex(); assert r'a\_b & ' in tex and r'all\_error\_rate' in tex and tex.count(r'\textbf')==3 and tex.count(r' $\pm$ ')==6 and tex.splitlines()[0]==r'\begin{tabular}{lcccr}'
    ax = oe.show_history(runs, 'relevant_precision'); assert np.allclose(ax.lines[0].get_ydata(), values[0].mean(0)) and len(ax.collections)==2
    with pytest.raises(UserError, match="did you mean 'relevant_recall'"): oe.show_history(runs, 'relevant_recal')

def test_boxes_as_files(tmp_path):
    clips = make_clips(); out = oe.extract_bb(Oracle(clips), clips, tmp_path, 'exp1', most=10); assert out==tmp_path/'labeled'/'exp1'
    code, label, t = torch.load(out/'z_what.pt', weights_only=True), torch.load(out/'labels.pt', weights_only=True), pd.read_csv(out/'boxes.csv'); e = oe.encode_clips(Oracle(clips), clips, most=10)
    assert (code.numpy()==e.found.code).all() and label.tolist()==label_found(e.found, clips.things).tolist()==t.label.tolist() and t.name.tolist()==[clips.classes[i] for i in label] and (t['frame']==t['clip']*4 + t['t']).all()
    assert np.allclose(t[['x_min', 'y_min', 'x_max', 'y_max']], e.found.xyxy, atol=1e-6) and np.allclose(t.conf, e.found.conf, atol=1e-6)

def test_nothing_found_no_things_one_class(tmp_path):
    clips = make_clips(); row = oe.evaluate_space(blind, clips).flat(); assert row['all_recall']==0 and math.isnan(row['all_precision']) and math.isnan(row['relevant_bayes_accuracy']) and row['all_undercount']==160
    bare = ObjectClips(clips.frames, clips.maps, Things.empty(), Things.empty(), clips.background, clips.info); oracle = Oracle(clips); r = oe.evaluate_space(oracle, bare); assert math.isnan(r.scores['all']['recall']) and r.by_class=={} and r.scores['all']['adjusted_rand_score']==1
    r.save(tmp_path, 1); assert oe.evaluate_space(blind, bare).scores['all']['perfect']==160 and len(pd.read_csv(oe.extract_bb(blind, bare, tmp_path, 'e')/'boxes.csv'))==0
    same = ObjectClips(clips.frames, clips.maps, clips.things._replace(label=clips.things.label*0 + 2), Things.empty(), clips.background, clips.info); assert oe.evaluate_space(Oracle(same), same).scores['relevant']['few_shot_accuracy_with_1']==1

def test_wrong_input(tmp_path):
    clips = make_clips(5)
    with pytest.raises(UserError, match='no true boxes'): oe.evaluate_space(blind, make_clips(5, classes=[]))
    with pytest.raises(DataError, match='codes of 1 pictures for 20 frames'): oe.evaluate_space(lambda x: blind(x[:1]), clips)
    with pytest.raises(DataError, match='clips is empty'): oe.evaluate_space(blind, clips.select([]))
    (tmp_path/'m.csv').write_text('global_step,mse\n1,2\n')
    with pytest.raises(DataError, match='separated by semicolons'): oe.append_csv(tmp_path/'m.csv', 1, oe.evaluate_space(blind, clips))

def test_a_full_evaluation_takes_seconds():
    "1,024 clips, ten predictions in every frame, codes of 32 numbers, six classes: all that is measured, without the network."
    rng = np.random.default_rng(0); n, k = 4096, 10; c = rng.random((n*k, 2)).astype(np.float32); label = rng.integers(1, 7, n*k).astype(np.int16); frame = np.repeat(np.arange(n, dtype=np.int32), k); flag = np.ones(n*k, bool)
    things = Things(frame, label, np.hstack([c - .05, c + .05]), ~flag, flag, flag); found = Found(frame, things.xyxy + rng.normal(0, .005, (n*k, 4)).astype(np.float32), rng.random(n*k).astype(np.float32), frame*0, (rng.normal(size=(7, 32))[label] + rng.normal(size=(n*k, 32))).astype(np.float32))
    clips = ObjectClips(np.zeros((1024, 4, 8, 8, 3), np.uint8), np.zeros((1024, 4, 8), np.uint8), things, Things.empty(), np.zeros((8, 8, 3), np.uint8), dict(classes=['no_label', *'abcdef'])); start = time.process_time(); r = oe.score_found(found, clips); took = time.process_time() - start
    assert r.scores['relevant']['fscore']>.9 and r.scores['relevant']['few_shot_accuracy_with_64']>.9 and took<30, f'{took:.1f} s'

def test_a_real_network_is_scored_drawn_and_read_out():
    "An untrained SPACE goes through evaluation, figure and health without a conversion in between."
    from vislearn.objects.figures import decomposition, health
    from vislearn.objects.space import Space, SpaceConfig
    torch.manual_seed(0); model, clips = Space(SpaceConfig.nano()).eval(), make_clips(6); frames = torch.from_numpy(clips.frames.reshape(24, 32, 32, 3)).permute(0, 3, 1, 2)
    a, b = oe.evaluate_space(model.encode, clips, thresh=.3), oe.evaluate_space(model, clips, thresh=.3)
    assert a.n_frames==24 and math.isnan(a.mse) and len(a.found.frame)==len(b.found.frame) and np.allclose(a.found.xyxy, b.found.xyxy, atol=1e-5)
    with torch.no_grad(): out = model(frames)
    assert b.mse==pytest.approx(out.mse.mean().item(), rel=1e-4); decomposition(frames, out, 2); read, said = health(out, clips.hints(model.cfg.G)[0].reshape(24, -1), (-2., .1)); assert all(np.isfinite(v) for k, v in read.items() if k not in ('hits', 'width', 'height')) and isinstance(said, list)

def test_classes_that_nobody_has_to_find():
    "Leaving a class out is the same as never having labelled it; predictions on it become false alarms, the others stay hits."
    clips = make_clips(30); disc = clips.classes.index('disc'); few = oe.without_classes(clips, ['disc']); t = clips.things
    assert few.things.n==(t.label!=disc).sum()>0 and few.classes==clips.classes and clips.things.n==t.n and oe.without_classes(clips, ()) is clips
    whole, left = (oe.evaluate_space(Oracle(clips), clips, leave_out=names) for names in ((), ('disc',))); bare = oe.score_found(left.found, few)
    assert str(left.scores)==str(bare.scores)
    hits = lambda r: round(r.scores['all']['precision']*len(r.found.frame)); found = {n: round(s*k) for n, (s, k) in oe.recall_by_class(whole.found, t, clips.classes).items()}
    assert hits(left)==hits(whole) - found['disc'] and 'disc' not in left.by_class and 'disc' in whole.by_class
    with pytest.raises(UserError, match="no class 'discs' .did you mean 'disc'"): oe.evaluate_space(blind, clips, leave_out=['discs'])
