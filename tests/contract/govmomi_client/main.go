// A client on the Go library, which is stricter than pyVmomi: it panics on an enum that is sent as a string and drops
// references without a type. The test beside it runs this against the simulated vCenter.
//
// Environment: URL (with user and password), CA (file), VM (name). Prints one line per step; exit code 1 on any error.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/nfc"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func must(err error) {
	if err != nil {
		log.Fatalf("%T: %v", err, err)
	}
}

func wait(ctx context.Context, task *object.Task, err error) *types.TaskInfo {
	must(err)
	info, err := task.WaitForResult(ctx)
	must(err)
	return info
}

func connect(ctx context.Context) *govmomi.Client {
	address, err := url.Parse(os.Getenv("URL"))
	must(err)
	transport := soap.NewClient(address, false)
	must(transport.SetRootCAs(os.Getenv("CA")))
	vim, err := vim25.NewClient(ctx, transport)
	must(err)
	client := &govmomi.Client{Client: vim, SessionManager: session.NewManager(vim)}
	must(client.Login(ctx, address.User))
	return client
}

func machines(ctx context.Context, client *govmomi.Client) []mo.VirtualMachine {
	manager := view.NewManager(client.Client)
	all, err := manager.CreateContainerView(ctx, client.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	must(err)
	var found []mo.VirtualMachine
	must(all.Retrieve(ctx, []string{"VirtualMachine"}, nil, &found)) // nil: every property there is
	must(all.Destroy(ctx))
	return found
}

func snapshots(ctx context.Context, vm *object.VirtualMachine) {
	info := wait(ctx, must2(vm.CreateSnapshot(ctx, "from-go", "", false, false)), nil)
	ref := info.Result.(types.ManagedObjectReference)
	var seen mo.VirtualMachineSnapshot
	must(vm.Properties(ctx, ref, []string{"config"}, &seen))
	for _, device := range seen.Config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			id := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo).ChangeId
			ask := types.QueryChangedDiskAreas{This: vm.Reference(), Snapshot: &ref, DeviceKey: disk.Key, ChangeId: "*"}
			areas := must2(methods.QueryChangedDiskAreas(ctx, vm.Client(), &ask)).Returnval
			fmt.Println("disk", disk.Key, "changeId", id != "", "areas", len(areas.ChangedArea), areas.Length)
		}
	}
	export(ctx, vm, must2(vm.ExportSnapshot(ctx, &ref)))
	wait(ctx, must2(vm.RemoveSnapshot(ctx, ref.Value, false, types.NewBool(true))), nil)
	fmt.Println("snapshot removed")
}

func export(ctx context.Context, vm *object.VirtualMachine, lease *nfc.Lease) {
	info := must2(lease.Wait(ctx, nil))
	for _, item := range info.Items {
		body, _, err := vm.Client().Download(ctx, item.URL, &soap.DefaultDownload)
		must(err)
		magic := make([]byte, 4)
		must2(io.ReadFull(body, magic))
		must(body.Close())
		fmt.Println("export", string(magic))
	}
	must(lease.Abort(ctx, nil))
}

func must2[T any](value T, err error) T {
	must(err)
	return value
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := connect(ctx)
	for _, vm := range machines(ctx, client) {
		fmt.Println("vm", vm.Name, vm.Runtime.PowerState, vm.Runtime.Host.Type, len(vm.Config.Hardware.Device) > 2)
	}
	vm := must2(find.NewFinder(client.Client).VirtualMachine(ctx, "/Datacenter/vm/"+os.Getenv("VM")))
	wait(ctx, must2(vm.PowerOn(ctx)), nil)
	fmt.Println("power", must2(vm.PowerState(ctx)))
	snapshots(ctx, vm)
	wait(ctx, must2(vm.PowerOff(ctx)), nil)
	task := must2(vm.PowerOff(ctx))
	fmt.Println("twice", task.Wait(ctx) != nil)
	fmt.Println("power", must2(vm.PowerState(ctx)))
	must(client.Logout(ctx))
	fmt.Println("done")
}
