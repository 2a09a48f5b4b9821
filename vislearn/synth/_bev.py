"temporary stand-in for robot.bev"
import numpy as np
from dataclasses import dataclass, asdict
@dataclass(frozen=True)
class CameraModel:
    K:tuple; width:int; height:int; T_body_camera:tuple; distortion:tuple|None=None
    @classmethod
    def from_pitch(cls, K, width, height, x, z, pitch_rad):
        c,s=np.cos(pitch_rad),np.sin(pitch_rad); Ry=np.array([[c,0,s],[0,1,0],[-s,0,c]])
        T=np.eye(4); T[:3,:3]=Ry@np.array([[0,0,1],[-1,0,0],[0,-1,0]]); T[:3,3]=x,0,z
        return cls(tuple(map(tuple,np.array(K).tolist())),width,height,tuple(map(tuple,T.tolist())))
    def project(self, xyz):
        T=np.array(self.T_body_camera); p=(np.asarray(xyz)-T[:3,3])@T[:3,:3]; K=np.array(self.K)
        return np.stack([K[0,0]*p[:,0]/p[:,2]+K[0,2],K[1,1]*p[:,1]/p[:,2]+K[1,2]],-1), p[:,2]>0
    def ground(self, uv):
        K=np.array(self.K); T=np.array(self.T_body_camera); d=np.stack([(uv[:,0]-K[0,2])/K[0,0],(uv[:,1]-K[1,2])/K[1,1],np.ones(len(uv))],-1)@T[:3,:3].T
        return T[:2,3]-d[:,:2]*T[2,3]/d[:,2:]
    def model_dump(self, mode=None): return asdict(self)
@dataclass(frozen=True)
class BevSpec:
    ppm:float; rows:int; cols:int; u0:float; v0:float; horizon_m:float; polygon:tuple; channel_order:str='rgb'
    @classmethod
    def from_camera(cls, cam, ppm=150, horizon_m=5.):
        vh=cam.project(np.array([[horizon_m,0,0]]))[0][0,1]; W,H=cam.width,cam.height
        g=cam.ground(np.array([[0,H-1],[W-1,H-1],[W-1,vh],[0,vh]],float)); mx,my=g[:,1].max(),g[:,1].min()
        return cls(ppm,int(horizon_m*ppm+1e-6),int((mx-my)*ppm),mx*ppm,horizon_m*ppm,horizon_m,tuple(map(tuple,g.tolist())))
    def to_ground(self, cr): cr=np.asarray(cr); return np.stack([(self.v0-cr[...,1])/self.ppm,(self.u0-cr[...,0])/self.ppm],-1)
    def to_pixel(self, xy): xy=np.asarray(xy); return np.stack([self.u0-xy[...,1]*self.ppm,self.v0-xy[...,0]*self.ppm],-1)
    def mask(self):
        c,r=np.meshgrid(np.arange(self.cols)+.5,np.arange(self.rows)+.5); g=self.to_ground(np.stack([c,r],-1)); m=np.ones((self.rows,self.cols),bool); P=np.array(self.polygon)
        for k in range(4):
            e=P[(k+1)%4]-P[k]; d=g-P[k]; m&=(e[0]*d[...,1]-e[1]*d[...,0])>=-1e-9
        return m
    @property
    def visible_share(self): return float(self.mask().mean())
    def model_dump(self, mode=None): return asdict(self)
class BevWarp:
    def __init__(self, cam, spec):
        c,r=np.meshgrid(np.arange(spec.cols)+.5,np.arange(spec.rows)+.5); g=spec.to_ground(np.stack([c,r],-1)).reshape(-1,2)
        uv,_=cam.project(np.c_[g,np.zeros(len(g))]); self.at=np.flatnonzero(spec.mask().ravel()); uv=np.rint(uv[self.at]).astype(int)
        self.src=uv[:,1].clip(0,cam.height-1)*cam.width+uv[:,0].clip(0,cam.width-1); self.shape=(spec.rows,spec.cols)
    def __call__(self, img):
        out=np.zeros((self.shape[0]*self.shape[1],3),np.uint8); out[self.at]=img.reshape(-1,3)[self.src]; return out.reshape(*self.shape,3)
