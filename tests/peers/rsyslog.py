"""A real rsyslog that receives over TLS, with an authority and a certificate of our own."""

import datetime
import ipaddress
import shutil
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from . import apt
from .ports import free_port
from .server import Server


def prepare(say):
    """Installs it where it is not there; None, or the reason why not."""
    driver = any(Path("/usr/lib").glob("*/rsyslog/lmnsd_ossl.so"))
    if shutil.which("rsyslogd") and driver:
        return None
    return apt.install(["rsyslog", "rsyslog-openssl"], say)


def _pem(path, *parts):
    path.write_bytes(b"".join(parts))
    path.chmod(0o600)


def certificates(folder):
    """ca.pem, and cert.pem with key.pem for localhost."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)

    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def build(subject, issuer, key):
        return (x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer))
                .public_key(key.public_key()).serial_number(x509.random_serial_number())
                .not_valid_before(now - day).not_valid_after(now + day))
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = (build("test authority", "test authority", authority)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(authority, hashes.SHA256()))
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    leaf = (build("localhost", "test authority", server)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .sign(authority, hashes.SHA256()))
    pem = serialization.Encoding.PEM
    _pem(folder / "ca.pem", root.public_bytes(pem))
    _pem(folder / "cert.pem", leaf.public_bytes(pem))
    _pem(folder / "key.pem", server.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


CONFIG = """
global(workDirectory="{dir}" maxMessageSize="64k"
       defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="{dir}/ca.pem"
       defaultNetstreamDriverCertFile="{dir}/cert.pem" defaultNetstreamDriverKeyFile="{dir}/key.pem")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imtcp" port="{port}" address="127.0.0.1")
template(name="fields" type="string"
         string="%pri%|%timestamp:::date-rfc3339%|%hostname%|%app-name%|%msgid%|%structured-data%|%msg%\\n")
action(type="omfile" file="{dir}/received" template="fields" asyncWriting="off" flushOnTXEnd="on")
"""


class Rsyslog:
    def __init__(self, folder):
        self.dir = Path(folder)
        self.dir.mkdir(parents=True, exist_ok=True)
        certificates(self.dir)
        self.port = free_port()
        self.config = self.dir / "rsyslog.conf"
        self.config.write_text(CONFIG.format(dir=self.dir, port=self.port))
        self.start()

    def start(self):
        self.server = Server("rsyslog", ["rsyslogd", "-n", "-f", self.config, "-i",
                                         self.dir / "pid"], self.dir)

    def received(self):
        file = self.dir / "received"
        text = file.read_text() if file.exists() else ""
        return [line.split("|", 6) for line in text.splitlines()]

    def stop(self):
        self.server.stop()
