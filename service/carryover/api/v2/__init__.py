"""`/v2`: the Open Inference Protocol, with extensions of Triton's.

Sources: https://github.com/kserve/open-inference-protocol and, for the extensions,
https://github.com/triton-inference-server/server/tree/main/docs/protocol . Error sentences that clients know are worded
as Triton words them.
"""
