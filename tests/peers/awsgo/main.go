// The AWS SDK for Go v2 as an agent would have it: each line on stdin asks STS who we are, and the
// answer is one line.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func main() {
	ctx := context.Background()
	loaded, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		fmt.Println("NO", err)
		os.Exit(1)
	}
	client := sts.NewFromConfig(loaded)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		who, err := client.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			fmt.Println("NO", strings.Join(strings.Fields(err.Error()), " "))
		} else {
			fmt.Println("OK", *who.Arn)
		}
	}
}
