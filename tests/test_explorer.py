"The explorer of runs: its filters, its list, its pages, through the values of its widgets."
import builtins, io, shutil
import pytest
from PIL import Image
from vislearn.runs.config import RunConfig
from vislearn.runs.explorer import Comparison, RunsView, comparison_html, explore, run_html
from vislearn.runs.record import Run

@pytest.fixture(autouse=True)
def no_package_list(monkeypatch): monkeypatch.setattr('vislearn.runs.record.packages', lambda: '')   # a third of a second per run, and of no interest here

def written(root, label, task='demo.line', loss=1., n=3, **fields):
    cfg = RunConfig(task=task, label=label, description=f'about {label}', data=dict(root=str(root), train=dict(name='t')), model=dict(name='m'), train=dict(epochs=3, batch_size=16), log=dict(tensorboard=False), **fields)
    run = Run.create(cfg, out=root/'runs', policy='record').start()
    for epoch in range(n): run.log(epoch + 1, epoch, 'test', loss=loss / (epoch + 1), **({'success': .1*epoch} if task=='demo.arm' else {}))
    run.finish(); return run

@pytest.fixture
def made(tmp_path):
    runs = [written(tmp_path, 'first'), written(tmp_path, 'second', seed=4), written(tmp_path, 'arm', 'demo.arm')]
    broken = written(tmp_path, 'lost'); (broken.dir/'status.json').unlink()
    return tmp_path/'runs', runs

class Parts:
    "The widgets of an explorer by name."
    def __init__(self, box):
        _, filters, self.chosen, self.tabs = box.children
        self.task, self.state, self.text, self.refresh, self.count = filters.children
        (self.metrics, self.by), self.picture = self.tabs.children[0].children[0].children, self.tabs.children[0].children[1]
        self.numbers, self.differences, self.page = self.tabs.children[1:]
    def labels(self): return [text.split()[1] for text, _ in self.chosen.options]

def size(png): return Image.open(io.BytesIO(png)).size

def test_explorer_opens_on_the_newest_runs(made):
    root, runs = made; parts = Parts(explore(root, n_chosen=2))
    assert parts.count.value=='4 of 4 runs' and len(parts.chosen.value)==2 and set(dict(parts.chosen.options).values())==set(RunsView(root).table.folder)
    assert [o[1] for o in parts.task.options]==['', 'demo.arm', 'demo.line'] and any('broken?' in text and 'no\u00a0status.json' in text for text, _ in parts.chosen.options)

def test_filters(made):
    root, runs = made; parts = Parts(explore(root))
    parts.task.value = 'demo.arm'; assert parts.labels()==['arm'] and parts.count.value=='1 of 4 runs'
    parts.task.value, parts.state.value = '', 'broken?'; assert parts.labels()==['lost']
    parts.state.value, parts.text.value = '', 'ABOUT sec'; assert parts.labels()==['second']
    parts.text.value = 'nothing like it ['; assert parts.labels()==[] and parts.chosen.value==() and parts.numbers.value==''
    parts.text.value = ''; assert len(parts.labels())==4

def test_choice_changes_curves_numbers_and_differences(made):
    root, runs = made; parts = Parts(explore(root, n_chosen=0)); empty = parts.picture.value
    parts.chosen.value = [str(runs[0].dir)]; one = parts.picture.value
    assert one!=empty and 'Choose two' in parts.differences.value and runs[0].id in parts.page.value and parts.metrics.options==('loss',)
    parts.chosen.value = [str(r.dir) for r in runs[:2]]; two = parts.picture.value
    assert two!=one and 'seed' in parts.differences.value and 'first' in parts.numbers.value and 'second' in parts.numbers.value
    parts.by.value = 'step'; assert parts.picture.value!=two
    parts.chosen.value = [str(runs[2].dir)]; assert parts.metrics.options==('loss', 'success'); wide = size(parts.picture.value)
    parts.metrics.value = ['success']; assert size(parts.picture.value)[1]==wide[1] and parts.picture.value!=two
    parts.chosen.value = [str(runs[0].dir)]; assert parts.metrics.value==() and size(parts.picture.value)[0]>300 # a metric that the new choice has not

def test_refresh_sees_new_and_removed_runs(made):
    root, runs = made; parts = Parts(explore(root)); parts.chosen.value = [str(runs[0].dir), str(runs[2].dir)]
    new = written(root.parent, 'newest'); assert 'newest' not in parts.labels()
    shutil.rmtree(runs[2].dir); parts.refresh.click()
    assert 'newest' in parts.labels() and 'arm' not in parts.labels() and parts.chosen.value==(str(runs[0].dir),) and parts.count.value=='4 of 4 runs' and [o[1] for o in parts.task.options]==['', 'demo.line']
    shutil.rmtree(new.dir); parts.chosen.value = [str(new.dir)]; assert 'no run' in parts.page.value # gone since the list was read: one line, no traceback

def test_refresh_sees_progress(made):
    root, runs = made; run = Run(runs[0].dir); parts = Parts(explore(root)); parts.chosen.value = [str(run.dir)]; before = parts.picture.value
    run.start(3); run.log(4, 3, 'test', loss=.01); run.finish(); parts.refresh.click()
    assert parts.picture.value!=before and '0.01' in parts.numbers.value and any('test_loss\u00a00.01' in text for text, _ in parts.chosen.options)

def test_no_runs_at_all(tmp_path):
    parts = Parts(explore(tmp_path/'none')); assert parts.count.value=='0 of 0 runs' and parts.picture.value[:4]==b'\x89PNG' and parts.chosen.options==()
    parts.refresh.click(); parts.text.value = 'x'; assert parts.count.value=='0 of 0 runs'

def test_without_ipywidgets_there_is_a_page(made, monkeypatch):
    root, runs = made; real = builtins.__import__
    def no_widgets(name, *args, **kwargs):
        if name=='ipywidgets': raise ImportError(name)
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', no_widgets); view = explore(root)
    assert isinstance(view, RunsView) and 'data:image/png' in view._repr_html_() and 'no status.json' in view._repr_html_()

def test_pages_escape_what_came_from_files(tmp_path):
    evil = '<script>alert(1)</script>'; runs = [written(tmp_path, evil), written(tmp_path, 'b')]
    for page in (run_html(runs[0]), comparison_html(runs), Comparison(runs)._repr_html_(), RunsView(tmp_path/'runs')._repr_html_()): assert evil not in page and 'alert(1)' in page
    parts = Parts(explore(tmp_path/'runs')); assert evil not in parts.differences.value + parts.numbers.value + parts.page.value

def test_comparison(made, tmp_path):
    root, runs = made; both = Comparison([runs[0].id, runs[1].dir], root=root)
    assert list(both.differences.index)==['description', 'label', 'seed'] and both.numbers['test_loss']['best'].round(3).tolist()==[.333, .333] and 'seed' in repr(both)
    html = both._repr_html_(); assert html.count('<table>')==3 and html.count('data:image/png')==1
    page = both.report().save(tmp_path/'page.html').read_text(); assert page.startswith('<!doctype html>') and 'Comparison of runs' in page
    lonely = Run.create(runs[0].config, out=root, policy='record'); assert 'data:image/png' not in run_html(lonely) and 'created' in Comparison([lonely, runs[0]])._repr_html_()
