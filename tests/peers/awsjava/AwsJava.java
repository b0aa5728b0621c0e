// The AWS SDK for Java v2 as an agent would have it: each line on stdin asks STS who we are, and the answer
// is one line. What a provider said is looked for along the causes.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import software.amazon.awssdk.core.exception.SdkException;
import software.amazon.awssdk.http.urlconnection.UrlConnectionHttpClient;
import software.amazon.awssdk.services.sts.StsClient;

public final class AwsJava {
    public static void main(String[] arguments) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in));
        try (var client = StsClient.builder()
                .endpointOverride(URI.create(System.getenv("AWS_ENDPOINT_URL_STS")))
                .httpClient(UrlConnectionHttpClient.create())
                .build()) {
            while (lines.readLine() != null) {
                try {
                    System.out.println("OK " + client.getCallerIdentity().arn());
                } catch (SdkException error) {
                    System.out.println("NO " + said(error));
                }
            }
        }
    }

    private static String said(Throwable error) {
        var words = new StringBuilder();
        for (Throwable it = error; it != null; it = it.getCause()) {
            words.append(it.getMessage()).append(' ');
        }
        return String.join(" ", words.toString().trim().split("\\s+"));
    }
}
