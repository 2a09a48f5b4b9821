"Scores of the representation and the cost against slow reference versions, closed values and chance"
from types import SimpleNamespace
import numpy as np, pytest, torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import kendalltau
from sklearn import metrics as sk
from sklearn.neighbors import KNeighborsClassifier
from vislearn.core import DataError
from vislearn.terrain import metrics as tm

rng = lambda seed=0: np.random.default_rng(seed)
def unit(x): return x/np.linalg.norm(x, axis=1, keepdims=True)

def test_triplet_accuracy_extremes_and_chance():
    a, p, n = rng().normal(size=(3, 5000, 4))
    assert tm.triplet_accuracy(a, a, n)==1
    assert tm.triplet_accuracy(a, n, a)==0
    assert abs(tm.triplet_accuracy(a, p, n)-.5)<.03
    assert tm.triplet_accuracy(torch.tensor(a), torch.tensor(p), torch.tensor(n))==tm.triplet_accuracy(a, p, n)

@pytest.mark.parametrize('k', [1, 3, 5, 7])
def test_knn_equals_sklearn_without_ties(k):
    g, q = rng(1).normal(size=(400, 6)), rng(2).normal(size=(150, 6)); y = rng(3).choice(list('ab'), 400)   # two labels, odd k: no ties
    ref = KNeighborsClassifier(k).fit(g, y).predict(q)
    assert (tm.knn_predict(torch.tensor(g), y, torch.tensor(q), k)==ref).all()
    assert (tm.knn_predict(g, y, q, k, block=500)==ref).all()

def test_knn_ties_go_to_the_nearer_label():
    def slow(g, y, q, k):
        out = []
        for v in q:
            d = np.linalg.norm(g-v, axis=1); near = np.argsort(d)[:k]
            out.append(min(sorted(set(y)), key=lambda c: (-(y[near]==c).sum(), d[near][y[near]==c].sum())))
        return np.array(out)
    g, q, y = rng(1).normal(size=(300, 3)), rng(2).normal(size=(200, 3)), rng(3).choice(list('abcdef'), 300)
    for k in (2, 4, 5): assert (tm.knn_predict(g, y, q, k)==slow(g, y, q, k)).all()

def test_knn_extremes_and_chance():
    g, y = rng().normal(size=(1000, 5)), np.repeat(list('abcde'), 200)
    assert tm.knn_accuracy(g, y, g, y, k=1)==1
    assert abs(tm.knn_accuracy(g, y, rng(1).normal(size=(1000, 5)), y)-.2)<.06
    assert tm.knn_accuracy([[0.], [9.]], ['a', 'b'], [[0.], [9.]], ['b', 'a'], k=1)==0
    assert tm.knn_accuracy([[0.], [9.]], ['a', 'b'], [[1.]], ['a'], k=50)==1                                # k larger than the gallery

def test_cluster_accuracy_closed_values():
    assert tm.cluster_accuracy(list('aaabbbcc'), [2, 2, 2, 0, 0, 0, 1, 1])==dict(one_to_one=1, majority=1)
    many = tm.cluster_accuracy(list('aabb'), [0, 1, 2, 3])                                                  # one cluster per patch flatters the majority rule
    assert many==dict(one_to_one=.5, majority=1)
    assert tm.cluster_accuracy(list('abab'), [0]*4)==dict(one_to_one=.5, majority=.5)
    y, c = rng().integers(0, 6, 500), rng(1).integers(0, 9, 500)
    table = np.array([[((y==i) & (c==j)).sum() for j in range(9)] for i in range(6)]); r, k = linear_sum_assignment(-table)
    assert tm.cluster_accuracy(y, c)==dict(one_to_one=table[r, k].sum()/500, majority=table.max(0).sum()/500)

def test_cluster_scores_equal_sklearn_and_chance():
    x, y = rng().normal(size=(300, 4)), np.repeat(list('abc'), 100)
    found = tm.kmeans(x, 3); s = tm.cluster_scores(x, y)
    assert s['ari']==sk.adjusted_rand_score(y, found) and s['nmi']==sk.normalized_mutual_info_score(y, found)
    assert s['fowlkes_mallows']==sk.fowlkes_mallows_score(y, found) and s['calinski_harabasz']==sk.calinski_harabasz_score(x, found)
    assert s['silhouette']==pytest.approx(sk.silhouette_score(x, found)) and s['k']==3
    assert abs(s['ari'])<.05 and s['one_to_one']<.5
    good = tm.cluster_scores(x*.01 + np.repeat(np.eye(4)[:3], 100, 0), y)
    assert good['one_to_one']==good['ari']==good['nmi']==good['fowlkes_mallows']==1 and good['silhouette']>.9
    assert (tm.kmeans(x, 3)==tm.kmeans(x, 3)).all()

@pytest.mark.parametrize('true_k', [2, 5])
def test_choose_k_finds_the_number_of_blobs(true_k):
    x = np.repeat(10*np.eye(6)[:true_k], 40, 0) + rng().normal(size=(40*true_k, 6))
    best, scores = tm.choose_k(x, range(2, 9), n_init=3)
    assert best==true_k and list(scores)==list(range(2, 9)) and scores[best]==max(scores.values())

def test_viewpoint_gap():
    x, y = unit(np.repeat(np.eye(3), 50, 0) + .1*rng().normal(size=(150, 3))), np.repeat(list('abc'), 50)
    assert tm.viewpoint_gap(x, x, y)<1e-6
    slow = np.mean([np.arccos(np.clip(x[i]@x[j], -1, 1)) for i in range(150) for j in range(150) if y[i]<y[j]])
    z = unit(x + .05*rng(1).normal(size=x.shape)); num = np.arccos(np.clip((x*z).sum(1), -1, 1)).mean()
    assert tm.viewpoint_gap(x, z, y)==pytest.approx(num/slow)
    assert tm.viewpoint_gap(x, np.roll(x, 50, 0), y)==pytest.approx(1, abs=.02)                             # far view looks like another terrain

def slow_order(costs, labels, better, worse, margin=0):
    return np.mean([a+margin<b for a in costs[labels==better] for b in costs[labels==worse]])

@pytest.mark.parametrize('margin', [0, .3])
def test_ordering_accuracy_equals_all_pairs(margin):
    costs, labels = rng().integers(0, 8, 200)/4, rng(1).choice(list('abcd'), 200)                           # integers: many ties
    orders = [('a', 'b', -1), ('c', 'b', 1), ('a', 'd', 0), ('x', 'a', -1), ('a', 'a', 0)]
    table = tm.ordering_table(costs, labels, orders, margin)
    ref = {('a', 'b'): slow_order(costs, labels, 'a', 'b', margin), ('b', 'c'): slow_order(costs, labels, 'b', 'c', margin)}
    assert table==pytest.approx(ref)
    assert tm.ordering_accuracy(costs, labels, orders, margin)==pytest.approx(dict(mean=np.mean(list(ref.values())), min=min(ref.values())))
    assert tm.margin_satisfaction(costs, labels, orders, 2*margin)==pytest.approx(tm.ordering_accuracy(costs, labels, orders, margin))

def test_ordering_accuracy_extremes_and_objects():
    labels = np.repeat(['good', 'bad'], 50); costs = np.r_[np.zeros(50), np.ones(50)]
    first, second = SimpleNamespace(first='good', second='bad', label=-1), SimpleNamespace(first='bad', second='good', label=1)
    assert tm.ordering_accuracy(costs, labels, [first])==tm.ordering_accuracy(costs, labels, [second])==dict(mean=1, min=1)
    assert tm.ordering_accuracy(-costs, labels, [first])==dict(mean=0, min=0)
    assert tm.margin_satisfaction(costs, labels, [first], 1.9)['mean']==1 and tm.margin_satisfaction(costs, labels, [first], 2.1)['mean']==0
    with pytest.raises(DataError, match='no strict statement'): tm.ordering_accuracy(costs, labels, [('good', 'ugly', -1)])

def test_ordering_objects_of_the_specification():
    from vislearn.terrain.spec import Ordering
    order = Ordering(first='good', second='bad', label=-1)
    assert tm.ordering_accuracy([0., 1.], ['good', 'bad'], [order])['mean']==1

def test_equality_error_equals_all_pairs():
    costs, labels = rng().normal(size=120), np.repeat(list('abc'), 40)
    orders = [('a', 'b', 0), ('c', 'a', 0), ('b', 'c', -1)]
    gap = lambda p, q: np.mean([abs(u-v) for u in costs[labels==p] for v in costs[labels==q]])
    med = [np.median(costs[labels==n]) for n in 'abc']
    assert tm.equality_error(costs, labels, orders)==pytest.approx((gap('a', 'b')+gap('a', 'c'))/2/(max(med)-min(med)))
    assert tm.equality_error(7*costs, labels, orders)==pytest.approx(tm.equality_error(costs, labels, orders))   # no scale
    assert tm.equality_error([1., 1., 9.], list('abc'), orders)==pytest.approx(.5)                              # (0 + 8)/2 over a span of 8

def test_level_separation_and_kendall():
    costs, labels = rng().normal(size=400) + np.repeat([0, 0, 3, 5], 100), np.repeat(list('abcd'), 100)
    levels = dict(a=0, b=0, c=1, d=2, unused=9)
    sep = tm.level_separation(costs, labels, levels, margin=2)
    assert sep[0, 1]==pytest.approx((np.quantile(costs[200:300], .05)-np.quantile(costs[:200], .95))/2) and set(sep)=={(0, 1), (1, 2)}
    med = [np.median(costs[labels==n]) for n in 'abcd']
    assert tm.kendall(costs, labels, levels)==pytest.approx(kendalltau(med, [0, 0, 1, 2]).statistic)
    assert tm.kendall([0., 1., 2.], list('abc'), dict(a=0, b=1, c=2))==1 and tm.kendall([2., 1., 0.], list('abc'), dict(a=0, b=1, c=2))==-1
    assert tm.kendall([1., 0., 2.], list('abc'), dict(a=0, b=1, c=2))==pytest.approx(1/3)                       # two of three pairs in order

def test_mean_color_float_and_uint8_agree():
    x = torch.randint(0, 256, (5, 3, 9, 7), dtype=torch.uint8)
    assert np.allclose(tm.mean_color(x), tm.mean_color(x.float()/255), atol=1e-6) and np.allclose(tm.mean_color(x), x.numpy().mean((2, 3))/255, atol=1e-6)

def test_big_gallery_keeps_memory_bounded(monkeypatch):
    seen, real = [], torch.cdist
    monkeypatch.setattr(torch, 'cdist', lambda a, b: (seen.append(len(a)*len(b)), real(a, b))[1])
    tm.knn_predict(rng().normal(size=(2000, 2)), ['a']*2000, rng().normal(size=(3000, 2)), block=10**5)
    assert max(seen)<=10**5 and len(seen)==60

def test_show_costs_marks_violated_statements():
    costs, labels = np.r_[rng().normal(0, .1, 50), rng(1).normal(1, .1, 50), rng(2).normal(1.02, .1, 50)], np.repeat(list('abc'), 50)
    ax = tm.show_costs(costs, labels, [('a', 'b', -1), ('b', 'c', -1)])
    colors = sorted(t.arrow_patch.get_edgecolor()[0] for t in ax.texts)
    assert len(colors)==2 and colors[0]<.5<colors[1]                                                            # one grey, one red
