"""An agent that speaks gRPC to its sidecar, by grpcio and the code made from what the sidecar serves:
`rpc.py STUBS TARGET [TOKEN]`. Each line on its standard input is `{"method", "message", "deadline"?}`, each line
it prints `{"ok": [messages…]}` or `{"status", "says", "problem"}`. A stream of the service is read to its end."""

import importlib
import json
import sys


def made(root, folder, text=None):
    """Makes the code in the folder, from the repository's file or from what a sidecar served."""
    import subprocess
    from pathlib import Path
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(root) / "proto/grantwright/agent/v1/agent.proto"
    (folder / "agent.proto").write_text(source.read_text() if text is None else text)
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=.",
                    "agent.proto"], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    return folder


class Agent:
    """The service's stub; `token` is absent on a unix socket."""

    def __init__(self, stubs, target, token=None):
        import grpc
        if str(stubs) not in sys.path:
            sys.path.insert(0, str(stubs))
        self.grpc = grpc
        self.words = importlib.import_module("agent_pb2")
        self.channel = grpc.insecure_channel(target)
        self.stub = importlib.import_module("agent_pb2_grpc").AgentStub(self.channel)
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def message(self, method, fields):
        return getattr(self.words, "ScopesRequest" if method == "Scopes" else f"{method}Request")(**fields)

    def call(self, method, fields, deadline=60, metadata=()):
        """The answer, or for `Watch` an iterator of them."""
        return getattr(self.stub, method)(
            self.message(method, fields), timeout=deadline, metadata=[*self.metadata, *metadata])

    def problem(self, fault):
        """What the sidecar's refusal says, as client libraries find it (`google.rpc.Status`); None: not its own."""
        from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory
        raw = dict(fault.trailing_metadata() or ()).get("grpc-status-details-bin")
        if raw is None:
            return None
        try:
            from google.rpc import status_pb2
            kind = status_pb2.Status
        except ImportError:
            file = descriptor_pb2.FileDescriptorProto(name="rpc_status.proto", package="google.rpc", syntax="proto3",
                                                      dependency=["google/protobuf/any.proto"])
            message = file.message_type.add(name="Status")
            for number, (name, of) in enumerate((("code", 5), ("message", 9), ("details", 11)), 1):
                field = message.field.add(name=name, number=number, type=of, label=3 if of == 11 else 1)
                if of == 11:
                    field.type_name = ".google.protobuf.Any"
            pool = descriptor_pool.DescriptorPool()
            pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
            pool.Add(file)
            kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status"))
        told = kind.FromString(raw)
        assert (told.code, told.message) == (fault.code().value[0], fault.details()), told
        assert told.details[0].type_url.endswith("/grantwright.agent.v1.Problem"), told
        return self.words.Problem.FromString(told.details[0].value)


def main(stubs, target, token=None):
    from google.protobuf import json_format
    agent = Agent(stubs, target, token)
    plain = lambda message: json_format.MessageToDict(message, preserving_proto_field_name=True)  # noqa: E731
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = agent.call(asked["method"], asked["message"], asked.get("deadline", 60))
            told = {"ok": [plain(it) for it in (answer if asked["method"] == "Watch" else [answer])]}
        except agent.grpc.RpcError as fault:
            problem = agent.problem(fault)
            told = {"status": fault.code().name, "says": fault.details(), "problem": problem and plain(problem)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
