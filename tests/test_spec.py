import json, os
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from vislearn.core import ConfigError, UserError
from vislearn.terrain.spec import Datum, Ordering, Spec, SpecError, dataset_specs, find_conflict, read_spec, spec_schema, time_ns

EXAMPLE = '''{
  "_comment": "campus walk, spring",
  "categories": {
    "asphalt":   [{"path": "bags/walk_a.bag", "start": 1710000010, "end": 1710000190}],
    "gravel":    [{"path": "bags/walk_b.bag", "start": 1710003605.5, "end": 1710003755},
                  {"path": "bags/walk_c",     "start": 1710007201, "end": 1710007290}],
    "tall_grass":[{"path": "bags/walk_d.mcap","start": 1710010800, "end": 1710010990}],
    "cobble":    [{"path": "bags/walk_e.bag", "start": 1710014402, "end": 1710014555}]
  },
  "orderings": [
    {"first": "asphalt", "second": "cobble",     "label": 0},
    {"first": "asphalt", "second": "gravel",     "label": -1},
    {"first": "tall_grass", "second": "gravel",  "label": 1}
  ]
}'''


def load(tmp_path, text, name='train.json'):
    (tmp_path/name).write_text(text)
    return Spec.from_json(tmp_path/name)


def make(orderings, names='abcdef'):
    return read_spec(dict(categories={n: [dict(path='x.bag')] for n in names}, orderings=[dict(first=p[0], second=p[2], label='<=>'.index(p[1])-1) for p in orderings.split()]))


def test_example_loads_unchanged(tmp_path):
    spec = load(tmp_path, EXAMPLE)
    assert list(spec.categories) == ['asphalt', 'gravel', 'tall_grass', 'cobble']
    assert [(d.start_ns, d.end_ns) for d in spec.categories['gravel']] == [(1710003605_500000000, 1710003755_000000000), (1710007201_000000000, 1710007290_000000000)]
    assert [(o.first, o.second, o.label) for o in spec.orderings] == [('asphalt', 'cobble', 0), ('asphalt', 'gravel', -1), ('tall_grass', 'gravel', 1)]
    assert spec.levels() == dict(asphalt=0, cobble=0, gravel=1, tall_grass=2)
    assert spec.categories['asphalt'][0].path == str(tmp_path/'bags/walk_a.bag')


def test_comments_at_every_level(tmp_path):
    data = json.loads(EXAMPLE)
    data['__orderings_to_infer'] = ['x']
    data['categories']['_todo'] = 'more gravel'
    data['categories']['gravel'][0]['_comment/todo'] = 'shadow'
    data['orderings'][0]['_why'] = 'feels the same'
    assert load(tmp_path, json.dumps(data)) == load(tmp_path, EXAMPLE)


@pytest.mark.parametrize('old, new, message', [
    ('"end": 1710003755', '"edn": 1710003755', "train.json: categories.gravel[0].edn: unknown key (did you mean 'end'?)"),
    ('"path": "bags/walk_c"', '"pth": "bags/walk_c"', "train.json: categories.gravel[1].pth: unknown key (did you mean 'path'?)"),
    ('"categories"', '"catgories"', "train.json: catgories: unknown key (did you mean 'categories'?)"),
    ('"orderings"', '"ordering"', "train.json: ordering: unknown key (did you mean 'orderings'?)"),
    ('"label": 0}', '"lable": 0}', "train.json: orderings[0].lable: unknown key (did you mean 'label'?)"),
    ('"second": "cobble"', '"second": "coble"', "train.json: orderings[0].second: unknown category 'coble' (did you mean 'cobble'?)"),
    ('"first": "tall_grass"', '"first": "tallgrass"', "train.json: orderings[2].first: unknown category 'tallgrass' (did you mean 'tall_grass'?)"),
    ('"label": 1}', '"label": 2}', 'train.json: orderings[2].label:'),
    ('"label": 1}', '"prefer": "frist"}', "train.json: orderings[2]: prefer must be 'first', 'second' or 'equal', got 'frist'"),
    ('"label": 1}', '"label": 1, "prefer": "first"}', 'contradict each other'),
    ('"second": "cobble"', '"second": "asphalt"', "train.json: orderings[0]: 'asphalt' is compared with itself"),
    ('"start": 1710003605.5', '"start": 1710003800', 'train.json: categories.gravel[0]: start must be before end'),
    ('"start": 1710003605.5', '"start": 1710003605500', 'unix seconds'),
    ('"start": 1710003605.5', '"start": "monday"', 'ISO-8601'),
    ('"label": 1}', '"label": 1},', 'train.json:14:'),
    ('"cobble":    [', '"gravel":    [', "train.json: 'gravel' is given twice"),
])
def test_mistakes_name_file_place_and_remedy(tmp_path, old, new, message):
    assert old in EXAMPLE
    with pytest.raises(SpecError) as e: load(tmp_path, EXAMPLE.replace(old, new))
    assert message in str(e.value) and '\n' not in str(e.value) and str(tmp_path) in str(e.value)
    assert isinstance(e.value, ConfigError) and e.value.exit_code == 2


def test_readable_labels_are_the_numeric_ones(tmp_path):
    words = EXAMPLE.replace('"label": 0', '"prefer": "equal"').replace('"label": -1', '"prefer": "first"').replace('"label": 1', '"prefer": "second"')
    assert load(tmp_path, words) == load(tmp_path, EXAMPLE)


def test_levels_expand_to_all_pairs():
    spec = read_spec(dict(categories={n: [dict(path='x')] for n in 'abcd'}, levels=[['a', 'b'], ['c'], ['d']]))
    assert sorted(map(str, spec.orderings)) == ['a < c', 'a < d', 'a = b', 'b < c', 'b < d', 'c < d']
    assert spec.levels() == dict(a=0, b=0, c=1, d=2)
    with pytest.raises(SpecError, match="did you mean 'asphalt'"): read_spec(dict(categories=dict(asphalt=[dict(path='x')], mud=[dict(path='x')]), levels=[['asfalt'], ['mud']]))
    with pytest.raises(SpecError, match='a < b < a'): read_spec(dict(categories={n: [dict(path='x')] for n in 'ab'}, levels=[['a'], ['b']], orderings=[dict(first='b', second='a', label=-1)]))


def test_both_directions_say_the_same():
    assert make('a<b').closure() == make('b>a').closure()
    assert make('a<b b>a').levels() is None                                  # c..f open
    assert make('a<b b>a', 'ab').levels() == dict(a=0, b=1)


@pytest.mark.parametrize('said, chain', [('a<b b<c c<a', ['a', 'b', 'c']), ('a=b b=c a<c', ['a', 'b', 'c']), ('a<b a>b', ['a', 'b']), ('a=b a<b', ['a', 'b']),
    ('a<b b=c c=d d<e e=a', list('abcde'))])
def test_contradictions_print_the_chain(said, chain):
    with pytest.raises(SpecError) as e: make(said)
    text = str(e.value).split('each other: ')[1].split(' (read')[0]
    names, signs = text.split()[::2], text.split()[1::2]
    assert names[0] == names[-1] and sorted(names[1:]) == chain and '<' in signs
    said = {s for p in said.split() for s in (p, p[2] + {'<': '>', '>': '<', '=': '='}[p[1]] + p[0])}
    assert all(a+s+b in said for a, s, b in zip(names, signs, names[1:]))     # every link of the chain was really said


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from('abcde'), st.sampled_from('<='), st.sampled_from('abcde')).filter(lambda p: p[0] != p[2]), max_size=8))
def test_a_conflict_is_found_exactly_if_no_costs_fit(said):
    orderings = [Ordering(first=a, second=b, label=-1 if s == '<' else 0) for a, s, b in said]
    fits = any(all((cost[a] < cost[b]) if s == '<' else cost[a] == cost[b] for a, s, b in said) for cost in COSTS)
    assert (find_conflict(orderings) is None) == fits
    if fits:
        spec = read_spec(dict(categories={n: [dict(path='x')] for n in 'abcde'}, orderings=[o.model_dump() for o in orderings]))
        for o, hops in spec.closure():                                        # all that follows holds for every cost that fits
            for cost in COSTS:
                if all((cost[a] < cost[b]) if s == '<' else cost[a] == cost[b] for a, s, b in said):
                    assert cost[o.second]-cost[o.first] >= hops if o.label else cost[o.first] == cost[o.second]


COSTS = [dict(zip('abcde', c)) for c in np.ndindex(*[5]*5)]


def test_hops_follow_the_longest_chain():
    hops = {str(o): h for o, h in make('a<b b<c a<c c=d', 'abcd').closure()}
    assert hops == {'a < b': 1, 'b < c': 1, 'a < c': 2, 'c = d': 0, 'a < d': 2, 'b < d': 1}


def test_open_orders_have_no_levels():
    assert make('a<b a<c', 'abc').levels() is None and make('a<b a<c b=c', 'abc').levels() == dict(a=0, b=1, c=1)
    assert make('', 'a').levels() == dict(a=0) and make('', 'ab').levels() is None


def test_validate_warns_of_groups_loners_and_missing_bags(tmp_path):
    spec = make('a<b c<d', 'abcde')
    report = spec.validate()
    assert report.components == [['a', 'b'], ['c', 'd'], ['e']] and report.missing == ['x.bag']
    assert [w for w in report.warnings if 'not comparable' in w and '{a, b} with {c, d}' in w]
    assert [w for w in report.warnings if "'e' occurs in no ordering" in w]
    (tmp_path/'b.bag').write_text('')
    assert read_spec(dict(categories=dict(a=[dict(path='b.bag')])), folder=tmp_path).validate().warnings == []


def test_times(tmp_path):
    assert time_ns(1710003605.123456789) == 1710003605_123456700               # what is left of it in a float, digit by digit
    assert time_ns('2024-03-09T16:00:10Z') == time_ns('2024-03-09T18:00:10+02:00') == time_ns(1710000010)
    spec = load(tmp_path, '{"categories": {"a": [{"path": "a.bag", "start": "2024-03-09T16:00:10Z", "end": null}, {"path": "a.bag", "offset": [5, 7.5]}, {"path": "a.bag", "offset": 5}]}}')
    first, last = 10**18, 10**18 + 20*10**9
    assert [d.window(first, last) for d in spec.categories['a']] == [(1710000010*10**9, last), (first + 5*10**9, first + 7_500000000), (first + 5*10**9, last)]


def test_paths(tmp_path, monkeypatch):
    (tmp_path/'json').mkdir(); (tmp_path/'work'/'data').mkdir(parents=True); (tmp_path/'root').mkdir()
    (tmp_path/'json'/'here.bag').write_text(''); (tmp_path/'work'/'data'/'there.bag').write_text('')
    monkeypatch.chdir(tmp_path/'work')
    text = json.dumps(dict(categories=dict(a=[dict(path=p) for p in ('here.bag', 'data/there.bag', '/far/away.bag', 'nowhere.bag')])))
    spec = load(tmp_path/'json', text)
    paths = [d.path for d in spec.categories['a']]
    assert paths[0] == str(tmp_path/'json'/'here.bag') and os.path.samefile(paths[1], tmp_path/'work'/'data'/'there.bag') and paths[2] == '/far/away.bag'
    rooted = load(tmp_path/'json', json.dumps(dict(root='../root', categories=dict(a=[dict(path='x.bag')]))))
    assert os.path.normpath(rooted.categories['a'][0].path) == str(tmp_path/'root'/'x.bag')


def test_defaults_reach_every_datum():
    spec = read_spec(dict(version=2, topic_map='jackal', bev=dict(ppm=75), categories=dict(a=[dict(path='x'), dict(path='y', topic_map='spot_seed')])))
    assert [(d.topic_map, d.bev['ppm']) for d in spec.categories['a']] == [('jackal', 75), ('spot_seed', 75)]


def test_round_trip(tmp_path):
    data = json.loads(EXAMPLE); data['categories']['asphalt'].append(dict(path='z.bag', offset=[1, 2], topic_map=dict(image='/cam'), bev=dict(ppm=75.)))
    spec = load(tmp_path, json.dumps(data))
    spec.to_json(tmp_path/'again.json')
    assert Spec.from_json(tmp_path/'again.json') == spec
    assert json.loads((tmp_path/'again.json').read_text())['categories']['asphalt'][0]['path'] == 'bags/walk_a.bag'   # moves with its folder


def test_schema_agrees_with_the_reader(tmp_path):
    schema = spec_schema()
    assert set(schema['$defs']['Datum']['properties']) == set(Datum.model_fields) and schema['$defs']['Datum']['additionalProperties'] is False
    assert {'categories', 'orderings', 'levels', 'root', 'version', 'topic_map', 'bev', 'camera'} == set(schema['properties'])
    jsonschema = pytest.importorskip('jsonschema')
    jsonschema.validate(json.loads(EXAMPLE), schema)
    with pytest.raises(jsonschema.ValidationError): jsonschema.validate(json.loads(EXAMPLE.replace('"end"', '"edn"')), schema)


def test_dataset_folder_needs_both_files(tmp_path):
    with pytest.raises(UserError, match='train.json and holdout.json missing') as e: dataset_specs(tmp_path)
    assert e.value.exit_code == 1
    for n in ('train.json', 'holdout.json'): (tmp_path/n).write_text(EXAMPLE)
    assert [len(s.categories) for s in dataset_specs(tmp_path)] == [4, 4]


def test_summary():
    table = make('a<b', 'ab').summary()
    assert list(table.index) == ['a', 'b'] and table.loc['b', 'level'] == 1
