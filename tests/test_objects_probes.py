"Probes against scikit-learn and slow versions, files without pickles, one class, no codes"
import json, math, os, pickle
import numpy as np, pytest, torch
from vislearn.core import DataError, UserError
from vislearn.objects import probes as op
from vislearn.objects.boxes import Things, box_iou, cover_share, make_things
from vislearn.objects.metrics import Found

def blobs(n=600, dim=8, classes=4, spread=.7, seed=0):
    rng = np.random.default_rng(seed); label = rng.integers(0, classes, n); means = rng.normal(size=(classes, dim))
    return (means[label] + spread*rng.normal(size=(n, dim))).astype(np.float32), label

def scene(n=40, seed=0):
    rng = np.random.default_rng(seed); N, M = rng.integers(0, 6, n), rng.integers(0, 8, n)
    def boxes(k): c, s = rng.random((k, 2)), rng.uniform(.1, .4, (k, 2)); return np.hstack([c - s/2, c + s/2]).clip(0, 1).astype(np.float32)
    things = make_things(np.repeat(np.arange(n), N), rng.integers(1, 5, N.sum()), boxes(N.sum()), rng.random(N.sum())<.3, rng.random(N.sum())<.6)
    k = M.sum(); return Found(np.repeat(np.arange(n), M).astype(np.int32), boxes(k), rng.random(k).astype(np.float32), np.zeros(k, np.int32), rng.normal(size=(k, 3)).astype(np.float32)), things

@pytest.mark.parametrize('rule', ['gt-share', 'iou'])
def test_O12_labels_equal_a_loop(rule):
    found, things = scene(); slow = []
    for f, box in zip(found.frame, found.xyxy):
        gt = things.of(f)
        if not gt.n: slow.append(0); continue
        s = (cover_share if rule=='gt-share' else box_iou)(box[None], gt.xyxy)[0]; ok = s.max()>=.5 if rule=='gt-share' else s.max()>0
        slow.append(int(gt.label[s.argmax()]) if ok else 0)
    assert op.label_found(found, things, rule).tolist()==slow and len(set(slow))==5

def test_encodings_of_the_three_sets():
    found, things = scene(); every, moving, relevant = (op.encodings(found, things, s) for s in ('all', 'moving', 'relevant'))
    assert len(every.label)==len(moving.label)==len(found.frame) and (every.label==0).any() and (moving.label==op.label_found(found, things.where(things.moving))).all()
    want = op.label_found(found, things.where(~things.hud)); assert (relevant.label>0).all() and (relevant.row==np.flatnonzero(want)).all() and (relevant.code==found.code[want>0]).all()

@pytest.mark.parametrize('classes', [2, 3, 5])
def test_few_shot_is_ridge_on_the_first_of_each_class(classes):
    from sklearn.linear_model import RidgeClassifier
    code, label = blobs(classes=classes); cut = 540
    for n, score in op.few_shot(code, label).items():
        rows = sorted(i for c in range(classes) for i in [j for j in range(cut) if label[j]==c][:n])
        model = RidgeClassifier(alpha=1.).fit(code[rows].astype(np.float64), label[rows]); assert score==pytest.approx(model.score(code[cut:].astype(np.float64), label[cut:]), abs=1e-12)

def test_few_shot_perfect_and_chance():
    code, label = blobs(4000, spread=.05, classes=4); assert op.few_shot(code, label)[64]==1
    assert op.few_shot(code, np.random.default_rng(1).integers(0, 4, 4000))[64]==pytest.approx(.25, abs=.07)

@pytest.mark.parametrize('classes', [1, 2, 4])
def test_files_load_without_unpickling_and_sklearn_reads_the_pickle(tmp_path, classes, monkeypatch):
    import joblib
    code, label = blobs(classes=classes); label = label*2 + 3; probe = op.FewShotProbe(16, ['no_label', 'a', 'b']).fit(code, label); path = probe.save(tmp_path)
    assert path.name=='z_what-classifier_16.joblib.pkl' and json.loads((tmp_path/'z_what-classifier_16.json').read_text())['names']==['no_label', 'a', 'b']
    model = joblib.load(path); assert (model.predict(code)==probe.predict(code)).all()                 # what old scripts do
    (tmp_path/'z_what-classifier_16.json').rename(tmp_path/'kept.json')
    trusted = op.FewShotProbe.load(path, trust=True); assert (trusted.predict(code)==probe.predict(code)).all()
    again = trusted.save(tmp_path, 'again'); assert (joblib.load(again).predict(code)==probe.predict(code)).all()
    (tmp_path/'kept.json').rename(tmp_path/'z_what-classifier_16.json')
    monkeypatch.setattr(joblib, 'load', lambda *a, **k: pytest.fail('a pickle was opened')); monkeypatch.setattr(pickle, 'load', lambda *a, **k: pytest.fail('a pickle was opened'))
    for file in (path, tmp_path/'z_what-classifier_16.json'):
        got = op.FewShotProbe.load(file); assert (got.predict(code)==probe.predict(code)).all() and got.n==16 and got.names==probe.names and np.array_equal(got.coef, probe.coef)

class Bomb:
    def __reduce__(self): return os.mkdir, ('exploded',)

def test_a_strangers_pickle_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); (tmp_path/'z.joblib.pkl').write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match='pass trust=True'): op.FewShotProbe.load('z.joblib.pkl')
    assert not (tmp_path/'exploded').exists()
    (tmp_path/'z.joblib.pkl').write_bytes(pickle.dumps([1]))
    with pytest.raises(DataError, match='expected a linear classifier, got list'): op.FewShotProbe.load('z.joblib.pkl', trust=True)
    (tmp_path/'z.json').write_text('{"format"')
    with pytest.raises(DataError, match='no classifier of vislearn'): op.FewShotProbe.load('z.joblib.pkl')

def slow_cluster_name(labels, taken):
    count = {}
    for i, c in enumerate(labels):
        count[c] = count.get(c, 0) + 1
        if count[c]>3/(i + 1) and c not in taken or count[c]>6/(i + 1): return c
    return max(set(labels), key=lambda c: (count[c], -c))

def test_names_of_clusters():
    rng = np.random.default_rng(0); pool, label = rng.normal(size=(300, 2)), rng.integers(0, 5, 300); centroids, taken = rng.normal(size=(9, 2)), []
    for c in centroids: near = np.argsort(((pool - c)**2).sum(1))[:24]; taken.append(slow_cluster_name(label[near].tolist(), taken))
    assert op.cluster_names(centroids, pool, label).tolist()==taken and len(set(taken))>1

def test_clusters_perfect_chance_and_bic():
    code, label = blobs(spread=.02); assert op.cluster_probe(code, label)==dict(ami=1., ari=1., cluster_nn=1., k=4) and op.cluster_probe(code, label, 'bic')['k']==4
    m = op.cluster_probe(code, np.random.default_rng(5).integers(0, 4, len(code))); assert abs(m['ami'])<.03 and abs(m['ari'])<.03 and m['cluster_nn']<.45
    fine = np.r_[code, code + 9]; m = op.cluster_probe(fine, np.r_[label, label], 'bic'); assert m['k']==8 and m['ari']<1                       # finer than the classes: punished

def test_clusters_are_those_of_sklearn():
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score
    code, label = blobs(spread=1.); group = KMeans(4, n_init=10, random_state=0).fit(code.astype(np.float64)).labels_
    assert op.cluster_probe(code, label)['ami']==pytest.approx(adjusted_mutual_info_score(label, group), abs=1e-9)

def test_nothing_and_one_class_and_few():
    code, label = blobs(); nan = math.isnan
    for n in (0, 1): assert all(map(nan, op.few_shot(code[:n], label[:n]).values())) and nan(op.cluster_probe(code[:n], label[:n])['ari'])
    assert op.fit_probes(code[:0], label[:0])=={} and set(op.few_shot(code, label*0 + 3).values())=={1.}
    assert op.cluster_probe(code, label*0)['cluster_nn']==1 and op.cluster_probe(code[:3], label[:3])['k']>=1
    late = label.copy()*0; late[540:] = 1; assert op.few_shot(code, late)[4]==0                                                                     # a class that only the test part has is never named
    assert op.label_found(Found.empty(3), scene()[1]).shape==(0,) and (op.label_found(scene()[0], Things.empty())==0).all()
    assert op.FewShotProbe(4).fit(code, label).predict(torch.zeros(0, 8)).shape==(0,)

def test_wrong_input():
    code, label = blobs()
    with pytest.raises(DataError, match='one label each'): op.few_shot(code, label[1:])
    with pytest.raises(DataError, match='did the training diverge'): op.cluster_probe(np.where(code>1, np.inf, code), label)
    with pytest.raises(DataError, match='got \\(600, 7\\)'): op.FewShotProbe().fit(code, label).predict(code[:, 1:])

def test_confusion_counts_pairs():
    from sklearn.metrics import confusion_matrix
    a, b = np.random.default_rng(0).integers(0, 5, (2, 300)); got = op.confusion(a, b, ['no', 'x'])
    assert (got.to_numpy()==confusion_matrix(a, b)).all() and list(got.index)==['no', 'x', '2', '3', '4'] and got.index.name=='is'
