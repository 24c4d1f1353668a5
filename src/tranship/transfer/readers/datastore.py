"""A flat disk of a powered-off VM, through the datastore's folder: ranged GETs over HTTPS.

    datastore+https://HOST/folder/vm/vm-flat.vmdk?dcPath=..&dsName=..     credentials: cookie, or user and password

Several connections (two give what one cannot, eight are of use to ESXi); see ranges.py. Nothing is known of zeros: the
engine looks for them in what it reads.
"""

from tranship.errors import Unsupported
from tranship.transfer.address import DiskAddress
from tranship.transfer.plan import LEAF
from tranship.transfer.readers.base import Channel, Plain
from tranship.transfer.readers.https import BROKEN, Site
from tranship.transfer.readers.ranges import RangeChannel


class DatastoreReader(Plain):
    request_size = LEAF
    max_connections = 8

    def __init__(self, address: DiskAddress) -> None:
        self._site = Site(address)
        self.size = self._length()

    def _length(self) -> int:
        connection = self._site.connect()
        try:
            connection.request("HEAD", self._site.path, headers=self._site.headers({}))
            response = connection.getresponse()
            response.read()
        except BROKEN as error:
            raise self._site.broken(error) from error
        finally:
            connection.close()
        if response.status != 200:
            raise self._site.refused(response.status)
        length = response.getheader("Content-Length", "")
        if not length.isdigit():
            raise Unsupported("the server does not tell its length", what=f"reading {self._site.url}")
        return int(length)

    def open_channel(self) -> Channel:
        return RangeChannel(self._site, self.size)


def open_reader(address: DiskAddress, size: int) -> DatastoreReader:
    return DatastoreReader(address)
