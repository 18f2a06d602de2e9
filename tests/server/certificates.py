"""Certificates for the tests of this folder, made by openssl from the command line."""

import pathlib
import shutil
import subprocess


def openssl(*arguments):
    subprocess.run(['openssl', *map(str, arguments)], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


class Authority:
    """Issues certificates, each NAME.crt and NAME.key in a folder, for 127.0.0.1 and localhost."""

    def __init__(self, folder, name='ca'):
        self.folder = pathlib.Path(folder)
        self.name = name
        self.certificate = self.folder / f'{name}.crt'
        self._key = self.folder / f'{name}.key'
        openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1',
                '-nodes', '-keyout', self._key, '-out', self.certificate, '-subj', f'/CN={name}',
                '-days', '30')

    def issue(self, name, days=30):
        """Valid from now on for so many days; -1: it was, a day ago."""
        request = self.folder / f'{name}.csr'
        extensions = self.folder / f'{name}.ext'
        certificate, key = self.folder / f'{name}.crt', self.folder / f'{name}.key'
        extensions.write_text('subjectAltName=DNS:localhost,IP:127.0.0.1\n')
        openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
                '-keyout', key, '-out', request, '-subj', f'/CN={name}')
        openssl('x509', '-req', '-in', request, '-CA', self.certificate, '-CAkey', self._key,
                '-CAcreateserial', '-out', certificate, '-days', days, '-extfile', extensions)
        return certificate, key


def replace(pair, by):
    """Puts a certificate and its key where others were, as one moves files: each at once."""
    for place, file in zip(pair, by):
        fresh = place.with_suffix('.new')
        shutil.copy(file, fresh)
        fresh.rename(place)
