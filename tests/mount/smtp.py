"""A real SMTP server for the test of alarms: prints its port, then writes each mail it takes into a folder.

With a certificate it offers STARTTLS, and refuses mail without it.
"""

import asyncio
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP

folder = pathlib.Path(sys.argv[1])
context = None
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])


class Keep:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        Keep.count += 1
        part = folder / f"{Keep.count:03}.part"
        head = f"X-To: {','.join(envelope.rcpt_tos)}\r\nX-Tls: {session.ssl is not None}\r\n"
        part.write_bytes(head.encode() + envelope.content)
        part.rename(folder / f"{Keep.count:03}.eml")
        return "250 taken"


async def main():
    make = lambda: SMTP(Keep(), hostname="localhost", tls_context=context, require_starttls=context is not None)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
