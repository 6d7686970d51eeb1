"""Make caffe.desc, the serialized descriptors that the package loads, from caffe.proto.

Run as `python -m caffelite.proto.compile`, or as a script if the package does not load for lack of caffe.desc.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def compile_schema(target: Path) -> None:
    """Write the FileDescriptorSet of caffe.proto to `target`; needs grpcio-tools."""
    from grpc_tools import protoc

    arguments = ["protoc", f"--proto_path={FOLDER}", f"--descriptor_set_out={target}", str(FOLDER / "caffe.proto")]
    if protoc.main(arguments) != 0:
        sys.exit("protoc refuses caffe.proto")


if __name__ == "__main__":
    compile_schema(FOLDER / "caffe.desc")
