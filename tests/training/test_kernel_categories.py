"""Every instant of a profiled step belongs to somebody, and the names of real kernels to the right category."""

import pytest

from fastseg.training.kernel_categories import CATEGORIES, IDLE, OTHER, Interval, analyze, attribute, category_of

# As cuDNN 9, cuBLAS, PyTorch, Inductor, NCCL, DALI and nvJPEG name them; arguments cut.
KERNELS = {
    "convolution, forward": (
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_warpgroupsize1x1x1_g1"
        "_execute_segment_k_off_kernel__5x_cudnn",
        "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688fprop_optimized_tf32_64x64_16x10_nhwc_align4>",
        "void convolve_common_engine_float_NHWC<__half, __half, 128, 5, 5, 3, 3, 3, true, false, false, false, false>",
        "void cudnn::cnn::conv2d_grouped_direct_kernel<false, true, false, false, false, false, 0, 0, int, __half>",
        "void conv2d_c1_k1_nhwc_kernel_specialized_window<__half, __half, __half, float, float, 5, 1, 8, 3, 2, 4>",
        "void (anonymous namespace)::conv_depthwise2d_forward_kernel<3, c10::BFloat16, int>",
        "sm80_xmma_depthwise_convolution_fprop_tiling_f16f16_f32f32_f32_nhwckrsc_nhwc",
        "volta_scudnn_128x64_relu_small_nn_v1",
        "triton_tem_fused__to_copy_convolution_12",
    ),
    "convolution, backward-data": (
        "sm80_xmma_dgrad_implicit_gemm_indexed_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize64x64x64_stage4__5x_cudnn",
        "cutlass_tensorop_bf16_s16816dgrad_optimized_bf16_128x128_32x3_nhwc_unity_stride_align8",
        "void cudnn::cnn::dgrad2d_grouped_direct_kernel<false, true, 0, 0, 0, float, float, float, float, float>",
        "void (anonymous namespace)::conv_depthwise2d_backward_kernel<3, 1, c10::BFloat16, int>",
    ),
    "convolution, backward-weight": (
        "sm80_xmma_wgrad_implicit_gemm_indexed_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize32x256x32_stage3__5x_cudnn",
        "void cudnn::cnn::wgrad_alg0_engine_NHWC<__half, 512, 6, 5, 3, 3, 3, false, 512>",
        "void (anonymous namespace)::conv_depthwise2d_grad_weight_kernel<c10::BFloat16, unsigned int>",
    ),
    "convolution, backward": ("aten::convolution_backward", "ConvolutionBackward0"),
    "matrix products": (
        "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_execute_segment_k_off_kernel__5x_cublas",
        "void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x64_16x6_tn_align4>",
        "ampere_bf16_s16816gemm_bf16_256x128_ldg8_f2f_stages_32x3_nn",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>",
        "triton_tem_fused_mm_4",
        "aten::addmm",
    ),
    "batch norm": (
        "void cudnn::bn_fw_tr_1C11_kernel_NCHW<__half, float, 512, true, 1>",
        "void cudnn::batchnorm_bwtr_nhwc_semiPersist<__half, float, float, 512, true, 1, 32, 2, 0>",
        "void at::native::batch_norm_collect_statistics_channels_last_kernel<at::native::InvStd, float, float, 4>",
        "triton_red_fused__native_batch_norm_legit_functional_144",
        "triton_poi_fused__native_batch_norm_legit_functional_native_batch_norm_backward_threshold_backward_42",
        "aten::native_batch_norm_backward",
    ),
    "fused pointwise and reductions": (
        "triton_poi_fused__to_copy_0",
        "triton_red_fused_add_convolution_backward_7",
        "triton_per_fused_mean_3",
    ),
    "upsampling": (
        "void at::native::(anonymous namespace)::upsample_bilinear2d_nhwc_out_frame<float, float>",
        "triton_poi_fused__unsafe_index_add_mul_sub_4",
        "UpsampleBilinear2DBackward0",
    ),
    "loss": (
        "void at::native::(anonymous namespace)::nll_loss2d_forward_no_reduce_kernel<float, long>",
        "void (anonymous namespace)::cunn_SpatialSoftMaxForward<float, float, float, int, LogSoftMaxForwardEpilogue>",
        "triton_red_fused__log_softmax_nll_loss2d_forward_5",
    ),
    "optimizer": (
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
        "TensorListMetadata<3>, at::native::(anonymous namespace)::FusedSgdMathFunctor<float, 3>, double>",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
        "TensorListMetadata<1>, at::native::(anonymous namespace)::LpNormFunctor<float, (at::native::NormType)1>>",
        "void at::native::lpnorm_cleanup<float, (at::native::NormType)1, float>",
        "aten::_fused_sgd_",
    ),
    "average": (
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
        "TensorListMetadata<2>, at::native::(anonymous namespace)::TernaryOpScalarFunctor<float, 2, 2, 0>, "
        "at::native::LerpFunctor<float>, float>",
        "aten::_foreach_lerp_",
    ),
    "data": (
        "Memcpy HtoD (Pinned -> Device)",
        "void dali::kernels::slice_flip_normalize::SliceNormalizeKernel_2D<unsigned char, unsigned char>",
        "void dali::kernels::BatchedSeparableResampleKernel<2, unsigned char, float>",
        "void nvjpeg::DecodeSingleGPU::dcAcDecodeKernel<nvjpeg::DecodeSingleGPU::DcAcDecodeAdditionalArgs>",
        "void nvjpeg::ycbcr_to_format_kernel_roi<(nvjpeg::Format)5>",
        "void nvimgcodec::ConvertNormKernel<unsigned char, unsigned char>",
        "void nvcomp::lowlevel::lz4DecompressBatchKernel<unsigned char>",
    ),
    "communication": (
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "gloo:all_reduce",
    ),
    "layouts and copies": (
        "void cudnn::engines_precompiled::nchwToNhwcKernel<__half, __half, float, false, true>",
        "void nhwcAddPaddingKernel<__half, __half, float, true, (cudnnKernelDataType_t)0>",
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)>",
        "Memcpy DtoD (Device -> Device)",
        "Memset (Device)",
    ),
    "pointwise and reductions": (
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul>>",
        "void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float, at::native::MeanOps<float, float>>>",
        "void at::native::(anonymous namespace)::max_pool_forward_nhwc<float, float>",
        "aten::hardswish_backward",
    ),
}


@pytest.mark.parametrize(
    ("category", "name"), [(category, name) for category, names in KERNELS.items() for name in names]
)
def test_categories_of_real_names(category: str, name: str) -> None:
    assert category_of(name) == category


def test_every_category_is_tried() -> None:
    assert KERNELS.keys() == {category for category, _ in CATEGORIES}


@pytest.mark.parametrize("name", ["aten::empty", "aten::view", "ProfilerStep#12", "step", "backward", "aten::resize_"])
def test_what_says_nothing_has_no_category(name: str) -> None:
    assert category_of(name) is None


def test_an_instant_has_one_owner() -> None:
    intervals = [
        Interval(0, 10, "a", "outer", (0,)),
        Interval(2, 5, "b", "inner", (-2,)),
        Interval(3, 4, "c", "innermost", (-3,)),
        Interval(12, 30, "a", "outer", (-12,)),
        Interval(-5, -1, "d", "before", (-99,)),
    ]
    spent = attribute(intervals, 1, 20)
    assert spent == {("a", "outer"): 6 + 8, ("b", "inner"): 2, ("c", "innermost"): 1, None: 2}
    assert sum(spent.values()) == 19
    assert attribute([], 3, 7) == {None: 4}


def event(cat: str, name: str, begin: float, end: float, tid: int = 7) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "ts": begin, "dur": end - begin, "tid": tid}


def test_a_gpus_trace() -> None:
    """Messages and copies beneath a convolution are hidden; after the last range the GPU still works."""
    conv, nccl, copy = KERNELS["convolution, forward"][0], KERNELS["communication"][0], KERNELS["data"][0]
    events = [
        event("user_annotation", "step", 0, 400, tid=1),
        event("user_annotation", "step", 500, 900, tid=1),
        event("cpu_op", "aten::convolution", 0, 900, tid=1),
        event("gpu_user_annotation", "step", 100, 2000),
        event("kernel", conv, 100, 1100),
        event("kernel", nccl, 1000, 1500, tid=8),
        event("gpu_memcpy", copy, 200, 300, tid=9),
        event("kernel", "void somebodys_kernel()", 1800, 2000),
        {"ph": "i", "name": "a mark", "ts": 5},
    ]
    found = analyze({"traceEvents": events})
    assert (found["device"], found["steps"], found["step_ms"]) == ("gpu", 2, 1.0)
    rows = {row["category"]: (row["ms"], row["hidden_ms"]) for row in found["categories"]}
    expected = {
        "convolution, forward": (0.5, 0.0),
        "communication": (0.2, 0.05),
        OTHER: (0.1, 0.0),
        IDLE: (0.2, 0.0),
    }
    assert rows.keys() == expected.keys()
    for category, values in expected.items():
        assert rows[category] == pytest.approx(values)
    assert found["kernels"][0] == {"name": conv[:200], "category": "convolution, forward", "ms": pytest.approx(0.5)}


def test_a_cpus_trace() -> None:
    """What is unknown is part of what it is in; another thread's work is not the step's."""
    events = [
        event("user_annotation", "step", 0, 1000),
        event("user_annotation", "data", 0, 100),
        event("cpu_op", "aten::convolution", 200, 600),
        event("cpu_op", "aten::empty", 250, 350),
        event("cpu_op", "aten::copy_", 400, 500),
        event("cpu_op", "aten::addmm", 0, 1000, tid=8),
    ]
    found = analyze({"traceEvents": events})
    assert {row["category"]: row["ms"] for row in found["categories"]} == pytest.approx(
        {"data": 0.1, "convolution, forward": 0.3, "layouts and copies": 0.1, OTHER: 0.5}
    )
    assert sum(row["share"] for row in found["categories"]) == pytest.approx(1.0)
