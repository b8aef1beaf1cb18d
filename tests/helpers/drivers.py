"""NVIDIA drivers that cannot be used, as torch sees them: small libraries that answer as libcuda and NVML would."""

import os
import subprocess
import sys
from pathlib import Path

CUDA = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int env(const char *name, int value) { return getenv(name) ? atoi(getenv(name)) : value; }
int cuInit(unsigned flags) { return env("FAKE_CUINIT", 0); }
int cuDriverGetVersion(int *version) { *version = env("FAKE_CUDA_VERSION", 12040); return 0; }
int cuDeviceGetCount(int *count) { *count = env("FAKE_GPUS", 1); return env("FAKE_CUINIT", 0); }
static int other() { return env("FAKE_CUINIT", 999); }
int cuGetProcAddress_v2(const char *name, void **address, int version, uint64_t flags, int *status) {
    Dl_info here;
    dladdr((void *)cuInit, &here);
    void *found = dlsym(dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD), name);
    if (!strcmp(name, "cuGetProcAddress")) found = (void *)cuGetProcAddress_v2;
    *address = found ? found : (void *)other;
    if (status) *status = 0;
    return 0;
}
"""
NVML = """
#include <stdlib.h>
#include <string.h>

static int env(const char *name, int value) { return getenv(name) ? atoi(getenv(name)) : value; }
static void text(char *to, unsigned size, const char *name, const char *value) {
    strncpy(to, getenv(name) ? getenv(name) : value, size);
}
int nvmlInit(void) { return env("FAKE_NVMLINIT", 0); }
int nvmlInit_v2(void) { return env("FAKE_NVMLINIT", 0); }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *to, unsigned size) { text(to, size, "FAKE_DRIVER", "550.54.15"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = env("FAKE_GPUS", 1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(size_t)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *to, unsigned size) { text(to, size, "FAKE_NAME", "NVIDIA H200"); return 0; }
int nvmlDeviceGetUUID(void *device, char *to, unsigned size) { strncpy(to, "GPU-0123", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
    memory[0] = 140ull << 30, memory[1] = (unsigned long long)env("FAKE_FREE", 139) << 30;
    memory[2] = memory[0] - memory[1];
    return 0;
}
int nvmlDeviceGetComputeMode(void *device, unsigned *mode) { *mode = env("FAKE_MODE", 0); return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { *device = (void *)(size_t)9; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    *millijoules = 1500 * (unsigned long long)(size_t)device;
    return env("FAKE_NO_ENERGY", 0);
}
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *next) {
    *now = *next = env("FAKE_MIG", 0);
    return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) { *count = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) {
    return index < (unsigned)env("FAKE_SLICES", 0) ? 0 : 6;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *processes) {
    *count = 1, *(unsigned *)processes = 4321;
    return 0;
}
"""


def build(folder: Path, *, cuda: bool = True, nvml: bool = True) -> Path:
    """Compile the libraries into ``folder``, which belongs in LD_LIBRARY_PATH; what they answer FAKE_* say.

    FAKE_CUINIT is what cuInit and all else answer, FAKE_CUDA_VERSION the newest CUDA, FAKE_GPUS their number.
    """
    for name, source, wanted in (("libcuda.so.1", CUDA, cuda), ("libnvidia-ml.so.1", NVML, nvml)):
        if wanted:
            linked = ("-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), "-ldl")
            command = ["cc", "-w", "-x", "c", "-", *linked]
            subprocess.run(command, input=source, text=True, check=True)
    return folder


LOAD = """
import ctypes, pathlib
for library in sorted(pathlib.Path({folder!r}).glob("lib*.so.1")):
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
"""
"""Code for a process that runs already, for which LD_LIBRARY_PATH comes too late: it finds them by name then."""


def environment(folder: Path, **answers: object) -> dict[str, str]:
    """This process's environment with the libraries of :func:`build`, and their answers, for a child process."""
    kept = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    said = {name if name.isupper() else f"FAKE_{name.upper()}": str(value) for name, value in answers.items()}
    return {**kept, "LD_LIBRARY_PATH": str(folder), "OMP_NUM_THREADS": "1", **said}
