// A vCenter for the contract tests: govmomi's simulator with a certificate, a user and a number of machines of our choice.
// It prints its address on the first line and serves until standard input is closed.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	cert := flag.String("cert", "", "certificate (PEM)")
	key := flag.String("key", "", "private key (PEM)")
	user := flag.String("user", "administrator@vsphere.local", "user who may log in")
	password := flag.String("password", "", "that user's password")
	vms := flag.Int("vms", 2, "virtual machines in each resource pool")
	flag.Parse()

	model := simulator.VPX()
	model.Machine = *vms
	model.OpaqueNetwork = 1
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		log.Fatal(err)
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(*user, *password)}
	server := model.Service.NewServer()
	defer server.Close()
	address := *server.URL
	address.User = nil
	fmt.Println(address.String())
	_, _ = io.Copy(io.Discard, os.Stdin)
}
