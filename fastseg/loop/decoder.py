"""Who decodes JPEGs, the same on all ranks."""

from fastseg.data.decoder_probe import DecoderChoice, choose_decoder
from fastseg.data.manifest import Manifest
from fastseg.loop.distributed import Ranks, gather_states


def choose_decoder_for_ranks(wanted: str, shards: str, split: str, manifest: Manifest, ranks: Ranks) -> DecoderChoice:
    """See :func:`fastseg.data.decoder_probe.choose_decoder`; one rank of each machine tries its GPU for the others.

    Every rank has to call. Where one machine's GPU does not decode as it should, the CPU decodes on all: two decoders
    round differently, and all ranks are to see the same pixels.
    """
    mine = None
    if ranks.local_rank == 0:
        mine = choose_decoder(wanted, ranks.device, manifest.image_codec, shards, split)
    choices = [DecoderChoice(*state["decoder"]) for state in gather_states({"decoder": mine}) if state["decoder"]]
    return next((choice for choice in choices if choice.warning), choices[0])
