"TFRecord files: checksums, framing and messages against independent implementations, damaged files, BAIR films"
import gzip, io, random, struct

import numpy as np, pytest, torch
from PIL import Image

from vislearn.core import ConfigError, DataError
from vislearn.video.tfrecord import bair_clip, bair_clips, crc32c, make_example, masked_crc32c, parse_example, read_records, write_records


def slow_crc(data):
    "One bit at a time."
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8): crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc_equals_the_bitwise_division():
    rng = random.Random(0)
    for n in [*range(70), 127, 128, 129, 1000, 4097]: data = rng.randbytes(n); assert crc32c(data) == slow_crc(data), n
    assert crc32c(bytes(range(32))) == 0x46DD794E and crc32c(bytes(range(31, -1, -1))) == 0x113FDB5C, 'RFC 3720, B.4'
    assert crc32c(bytearray(b'123456789')) == crc32c(memoryview(b'123456789')) == 0xE3069283


def test_crc_sees_every_bit():
    data = bytearray(random.Random(1).randbytes(777)); whole = crc32c(data); seen = {whole}
    for bit in range(0, 777*8, 13): data[bit//8] ^= 1 << bit % 8; seen.add(crc32c(data)); data[bit//8] ^= 1 << bit % 8
    assert len(seen) == 1 + len(range(0, 777*8, 13)) and crc32c(data) == whole


def test_framing_equals_tensorboards(tmp_path):
    writer = pytest.importorskip('tensorboard.summary.writer.record_writer'); rng = random.Random(2)
    payloads = [rng.randbytes(n) for n in (0, 1, 3, 4, 5, 100, 12_345)]; buffer = io.BytesIO(); record = writer.RecordWriter(buffer)
    for payload in payloads: record.write(payload)
    assert write_records(tmp_path/'x.tfrecords', payloads) == 7 and (tmp_path/'x.tfrecords').read_bytes() == buffer.getvalue()
    assert list(read_records(tmp_path/'x.tfrecords')) == payloads and [masked_crc32c(p) for p in payloads] == [writer.masked_crc32c(p) for p in payloads]


@pytest.fixture(scope='module')
def message_class():
    "The Example message as the protobuf library understands it."
    pb = pytest.importorskip('google.protobuf.descriptor_pb2'); from google.protobuf import descriptor_pool, message_factory
    kind = pb.FieldDescriptorProto; file = pb.FileDescriptorProto(name='vislearn_example.proto', package='vislearn_test', syntax='proto3')
    def message(parent, name, *fields):
        found = parent.add(name=name)
        for number, (field, label, code, type_name) in enumerate(fields, 1): found.field.add(name=field, number=number, label=label, type=code, type_name=type_name)
        return found
    many, one, top = kind.LABEL_REPEATED, kind.LABEL_OPTIONAL, '.vislearn_test.'
    for name, code in (('BytesList', kind.TYPE_BYTES), ('FloatList', kind.TYPE_FLOAT), ('Int64List', kind.TYPE_INT64)): message(file.message_type, name, ('value', many, code, None))
    feature = message(file.message_type, 'Feature', *((n, one, kind.TYPE_MESSAGE, top + t) for n, t in (('bytes_list', 'BytesList'), ('float_list', 'FloatList'), ('int64_list', 'Int64List'))))
    feature.oneof_decl.add(name='kind')
    for field in feature.field: field.oneof_index = 0
    features = message(file.message_type, 'Features', ('feature', many, kind.TYPE_MESSAGE, top + 'Features.FeatureEntry'))
    message(features.nested_type, 'FeatureEntry', ('key', one, kind.TYPE_STRING, None), ('value', one, kind.TYPE_MESSAGE, top + 'Feature')).options.map_entry = True
    message(file.message_type, 'Example', ('features', one, kind.TYPE_MESSAGE, top + 'Features'))
    pool = descriptor_pool.DescriptorPool(); pool.Add(file) if hasattr(pool, 'Add') else pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('vislearn_test.Example'))


VALUES = {'0/action': [.5, -1.25, 3e30, -0.], 'numbers': [0, 1, 127, 128, -1, 2**63 - 1, -2**63], 'raw': [b'', b'\0\xff', bytes(300)], 'grüße': [1]}


def test_V13_messages_equal_those_of_the_protobuf_library(message_class):
    theirs = message_class(); theirs.ParseFromString(make_example(VALUES)); found = theirs.features.feature
    assert set(found) == set(VALUES) and list(found['0/action'].float_list.value) == list(np.float32(VALUES['0/action']))
    assert list(found['numbers'].int64_list.value) == VALUES['numbers'] and list(found['raw'].bytes_list.value) == VALUES['raw']
    assert parse_example(theirs.SerializeToString()) == VALUES | {'0/action': np.float32(VALUES['0/action']).tolist()} == parse_example(make_example(VALUES))


@pytest.mark.parametrize('values,kind', [(['a', b'b'], bytes), (np.arange(3), int), (np.arange(3.), float), ([True, 2], int), ([1, .5], float), ((np.float32(2),), float), ('text', bytes), ([], None)])
def test_the_type_decides_the_kind(values, kind):
    found = parse_example(make_example({'x': values}))['x']; assert all(type(v) is kind for v in found) and len(found) == (1 if isinstance(values, str) else len(values))


def test_damaged_messages_never_crash():
    "Whatever the bytes, the answer is a message or one clear line."
    rng, whole, refused = random.Random(3), make_example(VALUES), 0
    for trial in range(2000):
        data = bytearray(whole[:rng.randrange(len(whole))] if trial % 2 else whole)
        for _ in range(rng.randrange(1, 4)): data[rng.randrange(len(data)) if data else 0:1] = rng.randbytes(rng.randrange(3))
        try: parse_example(bytes(data))
        except DataError as e: refused += 1; assert str(e).startswith('not an Example message: ') and '\n' not in str(e)
    assert refused > 500


def film(seed, steps=5, side=8, cameras=('image_aux1', 'image_main'), **change):
    "Features of a film in the form of BAIR."
    rng = np.random.default_rng(seed); res = {}
    for k in range(steps):
        res |= {f'{k}/{c}/encoded': rng.integers(0, 256, (side, side, 3), np.uint8).tobytes() for c in cameras}
        res |= {f'{k}/action': rng.normal(size=4).astype('f4'), f'{k}/endeffector_pos': rng.normal(size=3).astype('f4')}
    return {k: v for k, v in (res | change).items() if v is not None}


def write_bair(folder, counts=(2, 1), split='test', **kw):
    seed = 0
    for i, count in enumerate(counts): write_records(folder/'softmotion30_44k'/split/f'traj_{100*i}_to_{100*i+99}.tfrecords', [make_example(film(seed := seed + 1, **kw)) for _ in range(count)])


def test_V13_bair_reader_gives_back_what_was_written(tmp_path):
    write_bair(tmp_path, steps=30, side=64); clips = bair_clips(tmp_path, 'test', root=tmp_path/'cache')
    assert (len(clips), clips.size, clips.channels, clips.act_dim, clips.lengths.tolist()) == (3, (64, 64), 3, 4, [30]*3)
    for i, clip in enumerate(clips):
        truth = film(i + 1, 30, 64)
        for k in range(30): assert clip.frames[k].tobytes() == truth[f'{k}/image_aux1/encoded'] and np.array_equal(clip.notes['state'][k], truth[f'{k}/endeffector_pos'])
        assert np.array_equal(clip.actions, [truth[f'{k}/action'] for k in range(29)])
    assert list(clips.names) == ['traj_0_to_99.tfrecords: record 0', 'traj_0_to_99.tfrecords: record 1', 'traj_100_to_199.tfrecords: record 0']
    other = bair_clips(tmp_path, 'test', 'image_main', root=tmp_path/'cache'); assert other[0].frames[0].tobytes() == film(1, 30, 64)['0/image_main/encoded']
    frames, actions = clips.cut(1, 3, 12); assert frames.shape == (12, 3, 64, 64) and actions.shape == (11, 4) and frames.dtype == torch.uint8


def test_reading_again_opens_the_store_and_new_files_are_noticed(tmp_path):
    write_bair(tmp_path); first = bair_clips(tmp_path, 'test', root=tmp_path/'cache')
    assert bair_clips(tmp_path/'softmotion30_44k', 'test', root=tmp_path/'cache').path == first.path == bair_clips(tmp_path/'softmotion30_44k'/'test', 'test', root=tmp_path/'cache').path
    assert len(bair_clips(tmp_path, 'test', n=2, root=tmp_path/'cache')) == 2 and bair_clips(tmp_path, 'test', actions=None, root=tmp_path/'cache').act_dim == 0
    write_bair(tmp_path, (2, 1, 1)); assert len(bair_clips(tmp_path, 'test', root=tmp_path/'cache')) == 4


def test_files_are_read_in_the_order_of_their_numbers(tmp_path):
    for start in (1000, 256, 0): write_records(tmp_path/f'traj_{start}_to_{start+255}.tfrecords', [make_example(film(start))])
    assert [n.split(':')[0] for n in bair_clips(tmp_path, 'test', root=tmp_path/'cache').names] == [f'traj_{s}_to_{s+255}.tfrecords' for s in (0, 256, 1000)]


def flip(raw, at): return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:]


def test_V13_damaged_files_name_file_and_record(tmp_path):
    write_bair(tmp_path, (3,)); path = tmp_path/'softmotion30_44k'/'test'/'traj_0_to_99.tfrecords'; raw = path.read_bytes(); one = len(raw)//3
    assert len(raw) % 3 == 0
    cases = [(flip(raw, one + 500), 'record 1: its checksum is wrong'), (flip(raw, 2*one + 3), 'record 2: the checksum of its length is wrong'), (flip(raw, 9), 'record 0: the checksum of its length'),
        (flip(raw, 3*one - 1), 'record 2: its checksum'), (raw[:-100], 'record 2: the file ends after'), (raw[:2*one + 10], 'record 2, checksum of its length: the file ends after 2 of 4'), (raw[:one + 5], 'record 1: the file ends after 5 of 8')]
    for content, message in cases:
        path.write_bytes(content)
        with pytest.raises(DataError) as e: bair_clips(tmp_path, 'test', root=tmp_path/'cache')
        assert f'{path.name}: {message}' in str(e.value) and '\n' not in str(e.value)
        assert not list((tmp_path/'cache').glob('clips/*/meta.json')), 'nothing half read is kept'
    path.write_bytes(raw); assert len(bair_clips(tmp_path, 'test', root=tmp_path/'cache')) == 3


@pytest.mark.parametrize('change,message', [
    ({'2/action': None}, "no '2/action'"), ({'2/image_aux1/encoded': None}, "no '2/image_aux1/encoded'"), ({f'{k}/image_aux1/encoded': None for k in range(5)}, "no '0/image_aux1/encoded'"),
    ({'2/image_aux1/encoded': bytes(5)}, 'frame 2: expected 192 raw bytes for 8x8 RGB, got 5'), ({'2/action': [1.]}, r'action has \[1, 4\] numbers'), ({'2/endeffector_pos': None}, "no '2/endeffector_pos'"),
    ({'2/action': [np.nan]*4}, '4 action values are not finite'), ({'0/image_aux1/encoded': b''}, 'frame 0: expected')])
def test_V13_missing_or_wrong_keys_name_file_and_record(tmp_path, change, message):
    write_records(tmp_path/'a.tfrecords', [make_example(film(1)), make_example(film(2, **change))])
    kw = dict(size=(8, 8)) if '0/image_aux1/encoded' in change else {}
    with pytest.raises(DataError, match=rf'^a\.tfrecords: record 1.*{message}') as e: bair_clips(tmp_path, 'test', root=tmp_path/'cache', **kw)
    assert '\n' not in str(e.value)


def test_last_action_may_be_missing_and_pictures_may_be_packed():
    assert bair_clip(make_example(film(1, **{'4/action': None}))).actions.shape == (4, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8); buffer = io.BytesIO(); Image.fromarray(pixels).save(buffer, 'png')
    assert np.array_equal(bair_clip(make_example(film(1, **{'3/image_aux1/encoded': buffer.getvalue()}))).frames[3], pixels)
    with pytest.raises(DataError, match=r'several sizes: \[\(4, 4\), \(8, 8\)\]'): bair_clip(make_example(film(1, side=4, **{'3/image_aux1/encoded': buffer.getvalue()})))
    wide = bair_clip(make_example(film(1, **{f'{k}/image_aux1/encoded': bytes(3*4*16) for k in range(5)})), size=(4, 16)); assert wide.frames.shape == (5, 4, 16, 3)


def test_films_of_several_lengths_need_no_state(tmp_path):
    write_records(tmp_path/'a.tfrecords', [make_example(film(1, 5)), make_example(film(2, 7))])
    with pytest.raises(DataError, match=r'a.tfrecords: record 1: 7 frames, the first film has 5: say state=None'): bair_clips(tmp_path, 'test', root=tmp_path/'cache')
    assert bair_clips(tmp_path, 'test', state=None, root=tmp_path/'cache').lengths.tolist() == [5, 7]


def test_files_packed_with_gzip(tmp_path):
    write_records(tmp_path/'a', [b'one', bytes(5000), b'three']); packed = gzip.compress((tmp_path/'a').read_bytes(), mtime=0); (tmp_path/'b').write_bytes(packed)
    assert list(read_records(tmp_path/'b')) == [b'one', bytes(5000), b'three']
    for content in (packed[:-4], packed[:30], packed[:20] + b'xx' + packed[22:], packed[:-6] + b'xx' + packed[-4:]):
        (tmp_path/'b').write_bytes(content)
        with pytest.raises(DataError) as e: list(read_records(tmp_path/'b'))
        assert 'b: record ' in str(e.value) and '\n' not in str(e.value)


def test_wrong_arguments_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match='split must be train or test'): bair_clips(tmp_path, 'valid')
    with pytest.raises(DataError, match='no \\*.tfrecords'): bair_clips(tmp_path, 'train')
    (tmp_path/'a.tfrecords').touch()
    with pytest.raises(DataError, match='no clips found'): bair_clips(tmp_path, 'train', root=tmp_path/'cache')


def test_a_giant_length_asks_for_no_memory(tmp_path):
    head = struct.pack('<Q', 2**50); (tmp_path/'a').write_bytes(head + struct.pack('<I', masked_crc32c(head)) + b'x'*100)
    with pytest.raises(DataError, match='record 0.*ends after 100 of'): list(read_records(tmp_path/'a'))
