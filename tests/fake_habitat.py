"""A stand-in for the part of habitat-sim that `control.habitat` calls: one flat of two rooms, seen as coloured noise.

habitat-sim has no wheel, so the adapter is tested against this. It follows the published interface of the classes it imitates (names,
arguments, what they return); it is no simulator: no meshes, no rendering, no sliding."""
import math, sys, types

import numpy as np


class Quaternion:
    "Like numpy-quaternion's: real, imag."
    def __init__(self, w, x, y, z): self.real, self.imag = float(w), np.array([x, y, z], float)
    @property
    def yaw(self): return 2*math.atan2(self.imag[1], self.real)


class AgentState:
    def __init__(self, position=(0, 0, 0), rotation=(0, 0, 0, 1)):
        self.position = np.array(position, np.float32)
        self.rotation = rotation if isinstance(rotation, Quaternion) else Quaternion(rotation[3], *rotation[:3]) # lists are x, y, z, w


class ShortestPath:
    requested_start = requested_end = None; geodesic_distance = math.inf; points = ()


class PathFinder:
    "Two rooms, 8 x 6 m together, with a wall at |x| < 0.3 and a door in it at |z| < 0.6; height 0.1. Ways between the rooms lead through the middle of the door."
    is_loaded = True
    def __init__(self): self.rng = np.random.default_rng()
    def seed(self, n): self.rng = np.random.default_rng(n)
    def is_navigable(self, p): return abs(p[0]) <= 4 and abs(p[2]) <= 3 and (abs(p[0]) >= .3 or abs(p[2]) < .6)
    def get_random_navigable_point(self):
        x, z = self.rng.uniform((.3, -3), (4, 3))
        return np.array([x*self.rng.choice((-1, 1)), .1, z], np.float32)
    def _way(self, a, b):
        a, b = np.asarray(a, float), np.asarray(b, float)
        if not self.is_navigable(a) or not self.is_navigable(b): return None
        if a[0]*b[0] >= 0 and abs(a[0]) >= .3: return [a, b]
        gates = [np.array([math.copysign(.5, p[0]), a[1], 0]) for p in ((a, b) if abs(a[0]) >= .5 or abs(a[2]) > .2 and a[0]*b[0] < 0 else (b,))]
        return [a, *gates, b]
    def find_path(self, path):
        way = self._way(path.requested_start, path.requested_end)
        path.points = way or []; path.geodesic_distance = sum(math.dist(p, q) for p, q in zip(way, way[1:])) if way else math.inf
        return way is not None


class Agent:
    def __init__(self, config, finder): self.agent_config, self.finder, self.state = config, finder, AgentState()
    def get_state(self): return AgentState(self.state.position.copy(), self.state.rotation)
    def set_state(self, state, reset_sensors=True, infer_sensor_states=True, is_initial=False): self.state = AgentState(state.position, state.rotation)
    def act(self, name):
        spec = self.agent_config.action_space[name]; name, amount, yaw = spec.name, spec.actuation.amount, self.state.rotation.yaw
        if name == 'move_forward':
            old = self.state.position; new = old + amount*np.array([-math.sin(yaw), 0, -math.cos(yaw)], np.float32) # identity looks along -z
            if self.finder.is_navigable(new): self.state.position = new.astype(np.float32); return False
            return True
        yaw += math.radians(amount) * (1 if name == 'turn_left' else -1); self.state.rotation = Quaternion(math.cos(yaw/2), 0, math.sin(yaw/2), 0)
        return False


class GreedyFollowerError(RuntimeError): pass


class GreedyGeodesicFollower:
    def __init__(self, pathfinder, agent, goal_radius=None, *, stop_key=None, forward_key=None, left_key=None, right_key=None, fix_thrashing=True, thrashing_threshold=16):
        self.finder, self.agent, self.radius, self.keys, self.resets = pathfinder, agent, goal_radius, (stop_key, forward_key or 'move_forward', left_key or 'turn_left', right_key or 'turn_right'), 0
    def reset(self): self.resets += 1
    def next_action_along(self, goal):
        state = self.agent.get_state(); way = self.finder._way(state.position, goal)
        if way is None: raise GreedyFollowerError()
        if sum(math.dist(p, q) for p, q in zip(way, way[1:])) < self.radius: return self.keys[0]
        to = next((p - way[0] for p in way[1:] if np.linalg.norm(p - way[0]) > .13), way[-1] - way[0])
        off = (math.atan2(-to[0], -to[2]) - state.rotation.yaw + math.pi) % (2*math.pi) - math.pi
        turn = math.radians(next(s for s in self.agent.agent_config.action_space.values() if s.name == 'turn_left').actuation.amount)
        return self.keys[1] if abs(off) <= turn/2 + 1e-6 else self.keys[2] if off > 0 else self.keys[3]


class Simulator:
    made = [] # every simulator of the test
    def __init__(self, config):
        self.config, self.pathfinder, self.closed, self.steps = config, PathFinder(), False, []
        self.agents = [Agent(config.agents[0], self.pathfinder)]; Simulator.made.append(self)
    def get_agent(self, i): return self.agents[i]
    def get_sensor_observations(self):
        if not self.config.agents[0].sensor_specifications: return {}
        spec, state = self.config.agents[0].sensor_specifications[0], self.agents[0].state
        key = np.round(np.array([*state.position, math.cos(state.rotation.yaw), math.sin(state.rotation.yaw)])*1000).astype(np.int64) % 2**31
        return {spec.uuid: np.random.default_rng(key).integers(0, 256, (*spec.resolution, 4), np.uint8)} # RGBA, as habitat-sim
    def step(self, action): self.steps.append(action); hit = self.agents[0].act(action); return self.get_sensor_observations() | dict(collided=hit)
    def close(self, destroy=True): self.closed = True


def install(monkeypatch):
    "Put the fake in the place of `habitat_sim`."
    hs, spec = types.ModuleType('habitat_sim'), lambda **kw: types.SimpleNamespace(**kw)
    hs.__version__, hs.Simulator, hs.ShortestPath, hs.AgentState, hs.GreedyGeodesicFollower = 'fake', Simulator, ShortestPath, AgentState, GreedyGeodesicFollower
    hs.SimulatorConfiguration, hs.CameraSensorSpec = (lambda: spec()), (lambda: spec())
    hs.Configuration = lambda sim, agents: spec(sim=sim, agents=agents)
    hs.SensorType, hs.errors = spec(COLOR='color'), spec(GreedyFollowerError=GreedyFollowerError)
    hs.agent = types.ModuleType('habitat_sim.agent'); hs.agent.AgentState = AgentState; hs.agent.AgentConfiguration = lambda: spec(action_space={}, sensor_specifications=[])
    hs.agent.ActionSpec = lambda name, actuation=None: spec(name=name, actuation=actuation); hs.agent.ActuationSpec = lambda amount: spec(amount=amount)
    monkeypatch.setitem(sys.modules, 'habitat_sim', hs); monkeypatch.setitem(sys.modules, 'habitat_sim.agent', hs.agent); Simulator.made.clear()
    return hs
