"""Check which processor decodes JPEGs, and whether the pixels are right."""

import io

import numpy as np

from fastseg.doctor.rows import Request, Row, broken, ok, warning

SECONDS = 35.0
"""Seconds that the GPU's decoder may take, with the imports of torch and DALI."""
LEVELS = 1.0
"""Gray levels by which DALI and Pillow may differ on average."""


def jpeg_on_cpu(_request: Request) -> list[Row]:
    """Compare DALI with Pillow on one small JPEG, decoded as crops are without a GPU."""
    from PIL import Image

    from fastseg.libraries import import_problem

    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[::-1], (64, 1)), np.full((64, 96), 128, np.uint8)], axis=2)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95, subsampling=0)
    try:
        decoded = _decode(np.frombuffer(file.getvalue(), np.uint8))
    except (ImportError, OSError, RuntimeError) as error:
        problem = import_problem(error)
        what, _, cure = (problem or f"DALI fails ({' '.join(str(error).split())[:300]})").partition("; ")
        return broken("JPEG on the CPU", what, cure or "install the versions that setup.cfg names, and report this")
    difference = float(np.abs(decoded.astype(int) - np.asarray(Image.open(file)).astype(int)).mean())
    found = f"DALI decodes {difference:.2f} gray levels from what Pillow does"
    if difference > LEVELS:
        return broken("JPEG on the CPU", found, "install the versions that setup.cfg names, and report this")
    return ok("JPEG on the CPU", found)


def _decode(data: np.ndarray) -> np.ndarray:
    import nvidia.dali.fn as fn
    from nvidia.dali import Pipeline

    with Pipeline(batch_size=1, num_threads=1, device_id=None) as pipeline:
        pipeline.set_outputs(fn.decoders.image(fn.external_source(source=lambda: [data]), device="cpu"))
    (images,) = pipeline.run()
    return np.array(images.at(0))


def jpeg_on_gpu(request: Request) -> list[Row]:
    """Try the GPU's decoder in a separate process, on the set's records or on drawn ones."""
    from fastseg.device import cuda_works

    if not cuda_works():
        return ok("JPEG on the GPU", "no usable GPU: crops are decoded by the CPU")
    from fastseg.data.decoder_probe import probe_gpu_decoder

    result = probe_gpu_decoder(0, SECONDS, request.shards)
    took = f"{result.difference:.2f} gray levels from the CPU at most, {result.seconds:.0f} s"
    if not result.works:
        return warning(
            "JPEG on the GPU",
            f"the GPU's decoder is not used, since {result.reason}",
            "train all the same: the CPU decodes then, about 100 crops a second on each core; please report this",
        )
    if result.engine == "cuda kernels":
        cure = "see the row libnvcuvid; an A100, H100 or newer has the engine, others have not"
        return warning("JPEG on the GPU", f"by CUDA kernels, not by the GPU's JPEG engine ({took})", cure)
    return ok("JPEG on the GPU", f"engine: {result.engine} ({took})")
